package interop;

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.security.KeyPairGenerator;
import java.security.PrivateKey;
import java.util.stream.IntStream;
import net.handle.hdllib.AddValueRequest;
import net.handle.hdllib.AdminRecord;
import net.handle.hdllib.AuthenticationInfo;
import net.handle.hdllib.Encoder;
import net.handle.hdllib.HandleValue;
import net.handle.hdllib.ModifyValueRequest;
import net.handle.hdllib.PublicKeyAuthenticationInfo;
import net.handle.hdllib.SecretKeyAuthenticationInfo;
import net.handle.hdllib.Util;
import net.handle.hdllib.ValueReference;

/**
 * Who administers node C. `jiexi init` made one administrator, with an RSA key; he lets in two more over the
 * wire: one with a secret key and all rights, one who may read but not change anything.
 */
final class Administrators {
    static final String PREFIX = "88.300";
    static final byte[] RECORD = Util.encodeString("0.NA/" + PREFIX);
    private static final int LIST_INDEX = 200;
    private static final int KEY_INDEX = 300;
    private static final byte[] SECRET = "only for this run".getBytes(StandardCharsets.UTF_8);
    private static boolean invited;

    /** How the administrator proves who they are. */
    enum Key {
        RSA,
        SECRET
    }

    private Administrators() {}

    static synchronized AuthenticationInfo with(Key key) throws Exception {
        invite();
        return switch (key) {
            case RSA -> rsa();
            case SECRET -> new SecretKeyAuthenticationInfo(RECORD, KEY_INDEX + 1, SECRET);
        };
    }

    /** Knows the name of an administrator, not the key. */
    static synchronized AuthenticationInfo impostor(Key key) throws Exception {
        invite();
        return switch (key) {
            case RSA -> {
                KeyPairGenerator generator = KeyPairGenerator.getInstance("RSA");
                generator.initialize(2048);
                PrivateKey other = generator.generateKeyPair().getPrivate();
                yield new PublicKeyAuthenticationInfo(RECORD, KEY_INDEX, other);
            }
            case SECRET ->
                    new SecretKeyAuthenticationInfo(
                            RECORD, KEY_INDEX + 1, "a guess".getBytes(StandardCharsets.UTF_8));
        };
    }

    /** Is an administrator, but may only read. */
    static synchronized AuthenticationInfo reader() throws Exception {
        invite();
        return new SecretKeyAuthenticationInfo(RECORD, KEY_INDEX + 2, SECRET);
    }

    /** The rights of everybody in the prefix's list of administrators. */
    static HandleValue everybody(int index) {
        return admin(index, LIST_INDEX, IntStream.range(0, AdminRecord.LIST_HANDLES + 1).toArray());
    }

    private static AuthenticationInfo rsa() throws Exception {
        byte[] file = Files.readAllBytes(Setting.file("c/admin.key"));
        PrivateKey key = Util.getPrivateKeyFromBytes(Util.decrypt(file, null), 0);
        return new PublicKeyAuthenticationInfo(RECORD, KEY_INDEX, key);
    }

    private static void invite() throws Exception {
        if (invited) {
            return;
        }
        Client client = Setting.nodeC(Session.NONE);
        HandleValue[] more = {
            secret(KEY_INDEX + 1), secret(KEY_INDEX + 2), admin(101, KEY_INDEX + 2, AdminRecord.READ_VALUE),
        };
        client.change(new AddValueRequest(RECORD, more, rsa()));
        ValueReference[] members = {
            new ValueReference(RECORD, KEY_INDEX), new ValueReference(RECORD, KEY_INDEX + 1),
        };
        HandleValue list =
                new HandleValue(LIST_INDEX, Util.encodeString("HS_VLIST"), Encoder.encodeValueReferenceList(members));
        client.change(new ModifyValueRequest(RECORD, list, rsa()));
        invited = true;
    }

    private static HandleValue secret(int index) {
        HandleValue value = new HandleValue(index, Util.encodeString("HS_SECKEY"), SECRET);
        value.setAnyoneCanRead(false);
        return value;
    }

    private static HandleValue admin(int index, int of, int... slots) {
        AdminRecord rights = new AdminRecord();
        rights.adminId = RECORD;
        rights.adminIdIndex = of;
        for (int slot : slots) {
            rights.perms[slot] = true;
        }
        return new HandleValue(index, Util.encodeString("HS_ADMIN"), Encoder.encodeAdminRecord(rights));
    }
}
