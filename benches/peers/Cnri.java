import java.io.BufferedReader;
import java.io.File;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.Field;
import java.math.BigInteger;
import java.net.InetAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.Signature;
import java.security.interfaces.RSAPublicKey;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Vector;
import javax.crypto.Cipher;
import javax.crypto.interfaces.DHPrivateKey;
import javax.crypto.interfaces.DHPublicKey;
import net.handle.hdllib.AbstractMessage;
import net.handle.hdllib.AbstractResponse;
import net.handle.hdllib.Common;
import net.handle.hdllib.Configuration;
import net.handle.hdllib.Encoder;
import net.handle.hdllib.GenericRequest;
import net.handle.hdllib.GetSiteInfoResponse;
import net.handle.hdllib.HandleResolver;
import net.handle.hdllib.HandleValue;
import net.handle.hdllib.Interface;
import net.handle.hdllib.ServerInfo;
import net.handle.hdllib.SiteInfo;
import net.handle.hdllib.Util;
import net.handle.security.HdlSecurityProvider;
import net.handle.security.provider.GenericProvider;
import net.handle.server.AbstractServer;
import net.handle.server.JDBHandleStorage;
import net.handle.server.Main;
import net.handle.server.NetworkInterface;
import net.handle.util.StreamTable;

/**
 * A CNRI server on loopback, with its own storage (JDB).
 *
 * load DIRECTORY PORT PREFIXES THREADS [ADMIN]: sets its directory up as home of the prefixes, which have commas between
 * them, and fills its storage with the records on standard input: lines of a handle and its values in wire form, in
 * hexadecimal. ADMIN is its administrator, else the value 300 of the first prefix.
 * mirror DIRECTORY PORT SOURCE-PORT IDENTITY KEY: sets its directory up as mirror of the server at the port, which it
 * asks for its site record; it copies as this identity with the private key in the file KEY.
 * serve DIRECTORY [ROOT-PORT]: runs it. Its global service is the server at the port, else it is its own: it never asks
 * those in its jar.
 * dump DIRECTORY: prints what is stored, in the form that load reads, and the prefixes as lines of one word.
 */
public final class Cnri {
    public static void main(String[] arguments) throws Exception {
        Path directory = Path.of(arguments[1]);
        switch (arguments[0]) {
            case "serve" -> serve(directory, arguments.length > 2 ? Integer.parseInt(arguments[2]) : 0);
            case "dump" -> dump(directory.toFile());
            case "mirror" -> {
                String admins = "server_admins = ( \"" + arguments[4] + "\" )\n";
                configure(directory, Integer.parseInt(arguments[2]), false, "4", admins
                    + "replication_authentication = \"privatekey:" + arguments[4] + "\"\nreplication_interval = 500\n");
                SiteInfo source = siteAt(Integer.parseInt(arguments[3]));
                Files.write(directory.resolve("txnsrcsv.bin"), Encoder.encodeSiteInfoRecord(source));
                // As if it had copied something else: it is told to begin with everything.
                Files.writeString(directory.resolve("txnstat.dct"),
                    "{ sources = ( { last_txn_id = " + Integer.MAX_VALUE + "\nlast_timestamp = 0 } ) }\n");
                Files.copy(Path.of(arguments[5]), directory.resolve("replpriv.bin"));
            }
            default -> {
                String[] prefixes = arguments[3].split(",");
                String admin = arguments.length > 5 ? arguments[5] : "300:0.NA/" + prefixes[0];
                String admins = "";
                for (String of : new String[] {"server_admins", "backup_admins", "replication_admins"}) {
                    admins += of + " = ( \"" + admin + "\" )\n";
                }
                configure(directory, Integer.parseInt(arguments[2]), true, arguments[4], admins);
                System.out.println(load(directory.toFile(), prefixes) + " records");
            }
        }
    }

    /**
     * What the server takes its cryptography from, as its own provider but for one thing: that one knows RSA keys of users
     * only, and fails with "RSA not supported." where another server has signed with such a key.
     */
    public static final class WithRsa extends HdlSecurityProvider {
        private final GenericProvider own = new GenericProvider();

        @Override
        public boolean verify_RSA_SHA1_PKCS1(byte[] data, int from, int length, byte[] signature, RSAPublicKey key)
                throws Exception {
            Signature verifier = Signature.getInstance("SHA1withRSA");
            verifier.initVerify(key);
            verifier.update(data, from, length);
            return verifier.verify(signature);
        }

        @Override
        public Cipher getCipher(int algorithm, byte[] key, int direction) throws Exception {
            return own.getCipher(algorithm, key, direction);
        }

        @Override
        public byte[] generateSecretKey(int algorithm) throws Exception {
            return own.generateSecretKey(algorithm);
        }

        @Override
        public byte[] encrypt_DES_ECB_PKCS5(byte[] data, int from, int length, byte[] key) throws Exception {
            return own.encrypt_DES_ECB_PKCS5(data, from, length, key);
        }

        @Override
        public byte[] decrypt_DES_ECB_PKCS5(byte[] data, int from, int length, byte[] key) throws Exception {
            return own.decrypt_DES_ECB_PKCS5(data, from, length, key);
        }

        @Override
        public KeyPair generateDHKeyPair(int bits) throws Exception {
            return own.generateDHKeyPair(bits);
        }

        @Override
        public KeyPair generateDHKeyPair(BigInteger prime, BigInteger generator) throws Exception {
            return own.generateDHKeyPair(prime, generator);
        }

        @Override
        public byte[] getDESKeyFromDH(DHPublicKey theirs, DHPrivateKey ours) throws Exception {
            return own.getDESKeyFromDH(theirs, ours);
        }

        @Override
        public byte[] getKeyFromDH(DHPublicKey theirs, DHPrivateKey ours, int algorithm) throws Exception {
            return own.getKeyFromDH(theirs, ours, algorithm);
        }
    }

    private static void serve(Path directory, int root) throws Exception {
        // By its name it would not be found where this file is run as it is.
        Field provider = HdlSecurityProvider.class.getDeclaredField("instance");
        provider.setAccessible(true);
        provider.set(null, new WithRsa());
        SiteInfo global = new SiteInfo();
        if (root > 0) {
            global = siteAt(root);
        } else {
            Encoder.decodeSiteInfoRecord(Files.readAllBytes(directory.resolve("siteinfo.bin")), 0, global);
        }
        // This one is shared by all resolvers, and by the thread that looks for newer global sites.
        Configuration.defaultConfiguration().setGlobalSites(new SiteInfo[] {global});
        StreamTable settings = new StreamTable();
        settings.readFromFile(directory.resolve("config.dct").toFile());
        Server server = new Server(directory.toFile(), settings);
        server.initialize();
        server.start();
    }

    /** The site record that a server shows. */
    private static SiteInfo siteAt(int port) throws Exception {
        GenericRequest request =
            new GenericRequest(Util.encodeString("/"), AbstractMessage.OC_GET_SITE_INFO, null);
        AbstractResponse response =
            new HandleResolver().sendHdlTcpRequest(request, InetAddress.getByName("127.0.0.1"), port);
        return ((GetSiteInfoResponse) response).siteInfo;
    }

    /** The server's own start, without its first line: that calls what Java 11 has removed. */
    private static final class Server extends Main {
        private final StreamTable settings;

        Server(File directory, StreamTable settings) throws Exception {
            super(directory, settings);
            this.settings = settings;
        }

        @Override
        public void initialize() throws Exception {
            set("resolver", new HandleResolver());
            set("server", AbstractServer.getInstance(this, settings));
            Vector<NetworkInterface> interfaces = new Vector<>();
            for (Object name : (Vector<?>) settings.get("interfaces")) {
                interfaces.add(NetworkInterface.getInstance(this, String.valueOf(name), settings));
            }
            set("interfaces", interfaces);
        }

        private void set(String name, Object value) throws Exception {
            Field field = Main.class.getDeclaredField(name);
            field.setAccessible(true);
            field.set(this, value);
        }
    }

    private static void configure(Path directory, int port, boolean primary, String threads, String admins)
            throws Exception {
        KeyPairGenerator generator = KeyPairGenerator.getInstance("DSA");
        generator.initialize(1024);
        KeyPair keys = generator.generateKeyPair();
        byte[] publicKey = Util.getBytesFromPublicKey(keys.getPublic());
        Files.createDirectories(directory);
        Files.write(directory.resolve("pubkey.bin"), publicKey);
        byte[] privateKey = Util.encrypt(Util.getBytesFromPrivateKey(keys.getPrivate()), null, Common.ENCRYPT_NONE);
        Files.write(directory.resolve("privkey.bin"), privateKey);

        ServerInfo server = new ServerInfo();
        server.serverId = 1;
        server.ipAddress = new byte[16];
        System.arraycopy(InetAddress.getByName("127.0.0.1").getAddress(), 0, server.ipAddress, 12, 4);
        server.publicKey = publicKey;
        server.interfaces = new Interface[] {
            new Interface(Interface.ST_QUERY, Interface.SP_HDL_UDP, port),
            new Interface(Interface.ST_ADMIN_AND_QUERY, Interface.SP_HDL_TCP, port),
        };
        SiteInfo site = new SiteInfo();
        site.serialNumber = 1;
        site.majorProtocolVersion = 2;
        site.minorProtocolVersion = 1;
        site.isPrimary = primary;
        site.hashOption = SiteInfo.HASH_TYPE_BY_ALL;
        site.servers = new ServerInfo[] {server};
        Files.write(directory.resolve("siteinfo.bin"), Encoder.encodeSiteInfoRecord(site));

        String listen = "{ bind_address = 127.0.0.1\nbind_port = " + port + "\nnum_threads = " + threads
            + "\nbacklog = 128\nlog_accesses = no }\n";
        Files.writeString(directory.resolve("config.dct"), "{\nserver_type = server\ninterfaces = ( hdl_udp hdl_tcp )\n"
            + "hdl_udp_config = " + listen + "hdl_tcp_config = " + listen
            + "log_save_config = { log_save_interval = Never }\n"
            + "server_config = { this_server_id = 1\nmax_auth_time = 60000\ncase_sensitive = no\n"
            + "allow_recursion = no\nallow_list_hdls = yes\nencryption_alg = aes\n" + admins + "}\n}\n");
    }

    private static long load(File directory, String[] prefixes) throws Exception {
        JDBHandleStorage storage = new JDBHandleStorage(directory, true);
        for (String prefix : prefixes) {
            storage.setHaveNA(("0.NA/" + prefix).toUpperCase().getBytes(StandardCharsets.UTF_8), true);
        }
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII), 1 << 20);
        HexFormat hex = HexFormat.of();
        long count = 0;
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            int space = line.indexOf(' ');
            // As the server folds them when it is asked.
            byte[] handle = Util.upperCase(hex.parseHex(line, 0, space));
            byte[] wire = hex.parseHex(line, space + 1, line.length());
            List<HandleValue> values = new ArrayList<>();
            for (int at = 0; at < wire.length; ) {
                HandleValue value = new HandleValue();
                at += Encoder.decodeHandleValue(wire, at, value);
                values.add(value);
            }
            storage.createHandle(handle, values.toArray(HandleValue[]::new));
            count++;
        }
        storage.shutdown();
        return count;
    }

    private static void dump(File directory) throws Exception {
        JDBHandleStorage storage = new JDBHandleStorage(directory, false);
        PrintStream out = new PrintStream(new FileOutputStream(FileDescriptor.out), false, StandardCharsets.US_ASCII);
        HexFormat hex = HexFormat.of();
        storage.scanNAs(prefix -> out.println(hex.formatHex(prefix)));
        storage.scanHandles(handle -> {
            StringBuilder line = new StringBuilder(hex.formatHex(handle)).append(' ');
            for (byte[] value : storage.getRawHandleValues(handle, null, null)) {
                line.append(hex.formatHex(value));
            }
            out.println(line);
        });
        out.flush();
    }
}
