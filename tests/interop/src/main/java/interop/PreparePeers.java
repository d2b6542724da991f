package interop;

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import net.handle.hdllib.HandleValue;
import net.handle.hdllib.Util;
import net.handle.hdllib.ValueReference;

/**
 * Writes what CNRI server E is filled with, and the 10,000 handles of node M that CNRI server F copies. Arguments: output
 * directory, public key and secret of E's administrator.
 */
final class PreparePeers {
    static final int COPIED = 10_000;
    private static final int TIMESTAMP = 1_700_000_000;

    private PreparePeers() {}

    public static void main(String[] arguments) throws Exception {
        Path out = Path.of(arguments[0]);
        byte[] key = Files.readAllBytes(Path.of(arguments[1]));
        byte[] secret = Files.readString(Path.of(arguments[2])).strip().getBytes(StandardCharsets.UTF_8);

        Records e = new Records();
        HandleValue hidden = value(301, "HS_SECKEY", secret);
        hidden.setAnyoneCanRead(false);
        e.put("88.310.1/ADMIN", value(300, "HS_PUBKEY", key), hidden);
        e.put("88.310.1/press", text(1, "URL", "https://e.example.cn/press"), text(2, "DESC", "液压机"));
        e.put("88.300.7.1/valve", text(1, "URL", "https://e.example.cn/valve"));
        HandleValue absolute = text(4, "URL.MIRROR", "https://e.example.cn/2");
        absolute.setTTLType(HandleValue.TTL_TYPE_ABSOLUTE);
        absolute.setTTL(1_900_000_000);
        absolute.setReferences(new ValueReference[] {new ValueReference(Util.encodeString("88.310.1/ADMIN"), 300)});
        e.put("88.401/PUMP", text(1, "URL", "https://e.example.cn/1"), text(2, "EMAIL", "pump@example.cn"), absolute);
        e.put("88.401/工业标识", text(1, "URL", "https://e.example.cn/产品"));
        // Larger than a datagram.
        e.put("88.401/BIG", value(1, "PHOTO", new byte[3_000]));
        HandleValue[] many = new HandleValue[200];
        for (int i = 0; i < many.length; i++) {
            many[i] = text(i + 1, "PART", "part " + (i + 1));
        }
        e.put("88.401/MANY", many);
        e.write(out.resolve("e.ndjson"));
        e.writeLines(out.resolve("e.lines"));

        Records m = new Records();
        for (int i = 0; i < COPIED; i++) {
            HandleValue restricted = text(3, "BATCH", "批次 " + i % 7);
            restricted.setAnyoneCanRead(i % 10 != 0);
            String handle = "88.320/DEVICE-%05d".formatted(i);
            m.put(handle, text(1, "URL", "https://m.example.cn/" + i), text(2, "DESC", "设备 " + i), restricted);
        }
        m.write(out.resolve("m.ndjson"));
    }

    private static HandleValue text(int index, String type, String text) {
        return value(index, type, text.getBytes(StandardCharsets.UTF_8));
    }

    private static HandleValue value(int index, String type, byte[] data) {
        HandleValue value = new HandleValue(index, Util.encodeString(type), data);
        value.setTimestamp(TIMESTAMP);
        return value;
    }
}
