import java.io.BufferedReader;
import java.io.File;
import java.io.InputStreamReader;
import java.lang.reflect.Field;
import java.net.InetAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.util.HexFormat;
import java.util.Vector;
import net.handle.hdllib.Common;
import net.handle.hdllib.Encoder;
import net.handle.hdllib.HandleResolver;
import net.handle.hdllib.HandleValue;
import net.handle.hdllib.Interface;
import net.handle.hdllib.ServerInfo;
import net.handle.hdllib.SiteInfo;
import net.handle.hdllib.Util;
import net.handle.server.AbstractServer;
import net.handle.server.JDBHandleStorage;
import net.handle.server.Main;
import net.handle.server.NetworkInterface;
import net.handle.util.StreamTable;

/**
 * A CNRI server on loopback.
 *
 * load DIRECTORY PORT PREFIX THREADS: sets its directory up, and fills its own storage with the records on standard
 * input: lines of a handle and its values in wire form, in hexadecimal.
 * serve DIRECTORY: runs it.
 */
public final class Cnri {
    public static void main(String[] arguments) throws Exception {
        Path directory = Path.of(arguments[1]);
        if (arguments[0].equals("serve")) {
            StreamTable settings = new StreamTable();
            settings.readFromFile(directory.resolve("config.dct").toFile());
            Server server = new Server(directory.toFile(), settings);
            server.initialize();
            server.start();
            return;
        }
        configure(directory, Integer.parseInt(arguments[2]), arguments[3], arguments[4]);
        System.out.println(load(directory.toFile(), arguments[3]) + " records");
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

    private static void configure(Path directory, int port, String prefix, String threads) throws Exception {
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
        site.isPrimary = true;
        site.hashOption = SiteInfo.HASH_TYPE_BY_ALL;
        site.servers = new ServerInfo[] {server};
        Files.write(directory.resolve("siteinfo.bin"), Encoder.encodeSiteInfoRecord(site));

        String listen = "{ bind_address = 127.0.0.1\nbind_port = " + port + "\nnum_threads = " + threads
            + "\nbacklog = 128\nlog_accesses = no }\n";
        String admin = "300:0.NA/" + prefix;
        Files.writeString(directory.resolve("config.dct"), "{\nserver_type = server\ninterfaces = ( hdl_udp hdl_tcp )\n"
            + "hdl_udp_config = " + listen + "hdl_tcp_config = " + listen
            + "log_save_config = { log_save_interval = Never }\n"
            + "server_config = { this_server_id = 1\nmax_auth_time = 60000\ncase_sensitive = no\nserver_admins = ( \""
            + admin + "\" )\nbackup_admins = ( \"" + admin + "\" )\nreplication_admins = ( \"" + admin + "\" ) }\n}\n");
    }

    private static long load(File directory, String prefix) throws Exception {
        JDBHandleStorage storage = new JDBHandleStorage(directory, true);
        storage.setHaveNA(("0.NA/" + prefix).toUpperCase().getBytes(StandardCharsets.UTF_8), true);
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII), 1 << 20);
        HexFormat hex = HexFormat.of();
        long count = 0;
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            int space = line.indexOf(' ');
            // As the server folds them when it is asked.
            byte[] handle = Util.upperCase(hex.parseHex(line, 0, space));
            byte[] wire = hex.parseHex(line, space + 1, line.length());
            HandleValue[] values = new HandleValue[3];
            int at = 0;
            for (int i = 0; i < values.length; i++) {
                values[i] = new HandleValue();
                at += Encoder.decodeHandleValue(wire, at, values[i]);
            }
            storage.createHandle(handle, values);
            count++;
        }
        storage.shutdown();
        return count;
    }
}
