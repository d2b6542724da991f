package interop;

import java.io.BufferedOutputStream;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import net.handle.hdllib.AdminRecord;
import net.handle.hdllib.Encoder;
import net.handle.hdllib.HandleValue;
import net.handle.hdllib.Util;
import net.handle.hdllib.ValueReference;

/**
 * Prints what CNRI server G is filled with, from which a whole node moves to jiexi: everything that a value can say, spread
 * over as many handles as asked for. Arguments: how many, public key and secret of G's administrator.
 */
final class PrepareMigration {
    private static final int FIRST_TIMESTAMP = 1_000_000_000;

    private PrepareMigration() {}

    public static void main(String[] arguments) throws Exception {
        int count = Integer.parseInt(arguments[0]);
        byte[] key = Files.readAllBytes(Path.of(arguments[1]));
        byte[] secret = Files.readString(Path.of(arguments[2])).strip().getBytes(StandardCharsets.UTF_8);
        PrintStream out =
                new PrintStream(
                        new BufferedOutputStream(new FileOutputStream(FileDescriptor.out), 1 << 16),
                        false,
                        StandardCharsets.US_ASCII);
        HandleValue hidden = value(0, 301, "HS_SECKEY", secret);
        hidden.setAnyoneCanRead(false);
        print(out, "88.330/ADMIN", List.of(value(0, 300, "HS_PUBKEY", key), hidden));
        // Who may create handles; G is its own global service and asks itself for it.
        print(out, "0.NA/88.330", List.of(value(0, 100, "HS_ADMIN", administrator(0xFFF, 301))));
        for (int i = 2; i < count; i++) {
            print(out, i % 4 == 0 ? "88.331/设备." + i : "88.330/device-%07d".formatted(i), values(i));
        }
        out.flush();
    }

    private static List<HandleValue> values(int i) {
        List<HandleValue> values = new ArrayList<>();
        HandleValue url = text(i, 1, "URL", "https://g.example.cn/" + i);
        if (i % 3 == 0) {
            url.setTTLType(HandleValue.TTL_TYPE_ABSOLUTE);
            url.setTTL(1_900_000_000 + i % 1000);
        } else {
            url.setTTL(i % 100_000);
        }
        values.add(url);
        HandleValue desc = text(i, 2, "DESC", "设备 " + i + " 的说明");
        desc.setAnyoneCanRead(i % 7 != 0);
        desc.setAnyoneCanWrite(i % 19 == 0);
        desc.setAdminCanWrite(i % 23 != 0);
        if (i % 5 == 0) {
            desc.setReferences(
                    new ValueReference[] {
                        new ValueReference(Util.encodeString("88.330/ADMIN"), 300),
                        new ValueReference(Util.encodeString("88.331/设备." + i), 1)
                    });
        }
        values.add(desc);
        if (i % 13 == 0) {
            values.add(value(i, 3, "PHOTO", new byte[] {0, 1, (byte) 0xFF, '\n', (byte) i}));
        }
        if (i % 17 == 0) {
            values.add(value(i, 4, "", new byte[0]));
        }
        if (i % 97 == 0) {
            values.add(value(i, 5, "10320/loc", "x".repeat(3_000).getBytes(StandardCharsets.US_ASCII)));
        }
        for (int part = 6; i % 501 == 0 && part < 206; part++) {
            values.add(text(i, part, "PART." + part, "part " + part + " of " + i));
        }
        if (i % 2 == 0) {
            values.add(value(i, 1_000, "HS_ADMIN", administrator(i, 300)));
        }
        if (i % 29 == 0) {
            ValueReference[] members = {new ValueReference(Util.encodeString("88.330/ADMIN"), 301)};
            values.add(value(i, 1_001, "HS_VLIST", Encoder.encodeValueReferenceList(members)));
        }
        if (i % 11 == 0) {
            HandleValue secret = text(i, Integer.MAX_VALUE, "HS_SECKEY", "secret of " + i);
            secret.setAnyoneCanRead(false);
            values.add(secret);
        }
        return values;
    }

    /** What the administrator may do with a handle, one right a bit. */
    private static byte[] administrator(int rights, int index) {
        AdminRecord admin = new AdminRecord();
        admin.adminId = Util.encodeString("88.330/ADMIN");
        admin.adminIdIndex = index;
        for (int right = 0; right < admin.perms.length; right++) {
            admin.perms[right] = (rights >> right & 1) == 1;
        }
        return Encoder.encodeAdminRecord(admin);
    }

    private static void print(PrintStream out, String handle, List<HandleValue> values) throws Exception {
        HexFormat hex = HexFormat.of();
        StringBuilder line = new StringBuilder(hex.formatHex(handle.getBytes(StandardCharsets.UTF_8))).append(' ');
        for (HandleValue value : values) {
            line.append(hex.formatHex(Encoder.encodeHandleValue(value)));
        }
        out.println(line);
    }

    private static HandleValue text(int i, int index, String type, String text) {
        return value(i, index, type, text.getBytes(StandardCharsets.UTF_8));
    }

    private static HandleValue value(int i, int index, String type, byte[] data) {
        HandleValue value = new HandleValue(index, Util.encodeString(type), data);
        value.setTimestamp(FIRST_TIMESTAMP + i * 37 + index % 60);
        return value;
    }
}
