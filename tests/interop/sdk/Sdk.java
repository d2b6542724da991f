import cn.teleinfo.idpointer.sdk.client.GlobalIdClientFactory;
import cn.teleinfo.idpointer.sdk.client.IDClient;
import cn.teleinfo.idpointer.sdk.client.IDClientFactory;
import cn.teleinfo.idpointer.sdk.client.LoginInfoPoolKey;
import cn.teleinfo.idpointer.sdk.client.ValueHelper;
import cn.teleinfo.idpointer.sdk.config.IDClientConfig;
import cn.teleinfo.idpointer.sdk.core.AbstractIdRequest;
import cn.teleinfo.idpointer.sdk.core.AbstractIdResponse;
import cn.teleinfo.idpointer.sdk.core.AuthenticationInfo;
import cn.teleinfo.idpointer.sdk.core.CreateHandleIdRequest;
import cn.teleinfo.idpointer.sdk.core.HandleValue;
import cn.teleinfo.idpointer.sdk.core.PublicKeyAuthenticationInfo;
import cn.teleinfo.idpointer.sdk.core.ResolutionIdRequest;
import cn.teleinfo.idpointer.sdk.core.ResolutionIdResponse;
import cn.teleinfo.idpointer.sdk.core.Util;
import cn.teleinfo.idpointer.sdk.core.ValueReference;
import cn.teleinfo.idpointer.sdk.exception.IDException;
import cn.teleinfo.idpointer.sdk.transport.ChannelPoolConfig;
import cn.teleinfo.idpointer.sdk.transport.ChannelPoolMapManager;
import cn.teleinfo.idpointer.sdk.transport.RequestIdFactoryDefault;
import cn.teleinfo.idpointer.sdk.transport.TransportOnTcp;
import cn.teleinfo.idpointer.sdk.transport.TransportOnTcpLogin;
import cn.teleinfo.idpointer.sdk.util.KeyConverter;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.PrivateKey;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.bouncycastle.jce.provider.BouncyCastleProvider;

/**
 * Everything that users of id-pointer-sdk do, through that client as it is. Arguments: a directory with the users' keys;
 * the port of a recursive node; the port of the node of prefix 88.118.8, which the recursive one knows and which knows
 * the users. Prints a line for each operation and ends with 1 when one did not do what it should.
 */
public final class Sdk {
    private static final String RSA = "0.NA/88.118.8";
    private static final String SM2 = "88.118.8/SM2";
    private static final String SM2_BINARY = "88.118.8/SM2-BINARY";
    private static final String ELSEWHERE = "88.119/USER";
    private static final int INDEX = 300;

    private static int passed;
    private static int failed;
    private static Path keys;
    private static InetSocketAddress node;
    private static IDClientFactory factory;

    /** What an operation does; whatever it throws is a failure. */
    private interface Operation {
        void run() throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        keys = Path.of(arguments[0]);
        node = new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[2]));
        GlobalIdClientFactory.init(IDClientConfig.builder()
                .recursionServerIp("127.0.0.1")
                .recursionServerPort(Integer.parseInt(arguments[1]))
                .build());
        factory = GlobalIdClientFactory.getIdClientFactory();

        resolution();
        for (String user : new String[] {RSA, SM2, SM2_BINARY, ELSEWHERE}) {
            changes(user);
        }
        refusals();
        many();
        encryption();
        heartbeat();
        abandoned();
        System.out.println("sdk: " + passed + " passed, " + failed + " failed");
        System.exit(failed == 0 ? 0 : 1);
    }

    private static void resolution() {
        check("resolve a prefix at the recursive node", () -> {
            HandleValue[] values = GlobalIdClientFactory.getIdResolver().resolveHandle("88.118.8");
            expect("HS_SITE", values[0].getTypeAsString());
        });
        check("resolve a handle: its prefix at the recursive node, then its own node", () -> {
            HandleValue[] values = GlobalIdClientFactory.getIdResolver().resolveHandle("88.118.8/pump");
            expect("https://example.cn/pump", values[0].getDataAsString());
        });
        check("resolve a handle of elsewhere through the recursive node", () -> {
            InetSocketAddress recursive = new InetSocketAddress(
                    GlobalIdClientFactory.getIdClientConfig().getRecursionServerIp(),
                    GlobalIdClientFactory.getIdClientConfig().getRecursionServerPort());
            try (IDClient client = factory.newInstance(recursive)) {
                expect("https://example.cn/pump", client.resolveHandle("88.118.8/pump")[0].getDataAsString());
            }
        });
        check("resolve by type and by index", () -> {
            try (IDClient client = factory.newInstance(node)) {
                HandleValue[] values = client.resolveHandle("88.118.8/pump", new String[] {"EMAIL"}, null);
                expect("2", values.length == 1 ? "" + values[0].getIndex() : values.length + " values");
                values = client.resolveHandle("88.118.8/pump", null, new int[] {1});
                expect("URL", values.length == 1 ? values[0].getTypeAsString() : values.length + " values");
            }
        });
        check("resolve with an authentication string", () -> {
            try (IDClient client = factory.newInstance(node)) {
                HandleValue[] values = client.resolveHandle("88.118.8/pump", new String[] {"URL"}, null, "e30.e30.c2ln");
                expect("https://example.cn/pump", values[0].getDataAsString());
            }
        });
        check("a handle that does not exist: code 100", () -> {
            try (IDClient client = factory.newInstance(node)) {
                refused(100, () -> client.resolveHandle("88.118.8/none"));
            }
        });
    }

    private static void changes(String user) {
        String handle = "88.118.8/by-" + user.replace('/', '-');
        check("create, resolve, add, update, remove values, replace and delete as " + user, () -> {
            try (IDClient client = client(user)) {
                client.createHandle(handle, values(1, "https://example.cn/1"));
                expect("https://example.cn/1", client.resolveHandle(handle)[0].getDataAsString());
                refused(101, () -> client.createHandle(handle, values(1, "https://example.cn/1")));
                client.addHandleValues(handle, new HandleValue[] {new HandleValue(2, "URL", "https://example.cn/2")});
                client.updateHandleValues(handle, new HandleValue[] {new HandleValue(2, "URL", "https://example.cn/3")});
                expect("https://example.cn/3", client.resolveHandle(handle, null, new int[] {2})[0].getDataAsString());
                client.deleteHandleValues(handle, new int[] {2});
                refused(200, () -> client.resolveHandle(handle, null, new int[] {2}));
                client.createHandle(handle, values(1, "https://example.cn/4"), true);
                expect("https://example.cn/4", client.resolveHandle(handle, null, new int[] {1})[0].getDataAsString());
                client.deleteHandle(handle);
                refused(100, () -> client.resolveHandle(handle));
            }
        });
        check("read a restricted value as " + user, () -> {
            try (IDClient anybody = factory.newInstance(node); IDClient client = client(user)) {
                expect("2", "" + anybody.resolveHandle("88.118.8/restricted").length);
                HandleValue[] values = client.resolveHandle("88.118.8/restricted");
                expect("3", "" + values.length);
                expect("for administrators", values[1].getDataAsString());
            }
        });
    }

    private static void refusals() {
        check("a change without login is refused", () -> {
            try (IDClient client = factory.newInstance(node)) {
                refused(401, () -> client.createHandle("88.118.8/anonymous", values(1, "x")));
                refused(100, () -> client.resolveHandle("88.118.8/anonymous"));
            }
        });
        for (String user : new String[] {RSA, SM2}) {
            check("a wrong key is refused as " + user, () -> {
                PrivateKey wrong = inFile(user.equals(RSA) ? "wrong.pem" : "wrong-sm2.pem");
                try (IDClient client = factory.newInstance(node, user, INDEX, wrong)) {
                    refused(-1, () -> client.createHandle("88.118.8/wrong", values(1, "x")));
                }
                try (IDClient client = factory.newInstance(node)) {
                    refused(100, () -> client.resolveHandle("88.118.8/wrong"));
                }
            });
        }
        check("an unknown user is refused", () -> {
            try (IDClient client = factory.newInstance(node, "88.118.8/NOBODY", INDEX, inFile("user.pem"))) {
                refused(-1, () -> client.createHandle("88.118.8/wrong", values(1, "x")));
            }
        });
    }

    private static void many() {
        for (String user : new String[] {RSA, SM2}) {
            check("1,000 creates from 8 threads as " + user, () -> {
                ExecutorService threads = Executors.newFixedThreadPool(8);
                try (IDClient client = client(user)) {
                    Future<?>[] all = new Future<?>[1000];
                    for (int i = 0; i < all.length; i++) {
                        String handle = "88.118.8/many-" + user.length() + "-" + i;
                        Callable<Void> create = () -> {
                            client.createHandle(handle, values(1, handle));
                            return null;
                        };
                        all[i] = threads.submit(create);
                    }
                    for (Future<?> one : all) {
                        one.get(60, TimeUnit.SECONDS);
                    }
                    for (int i = 0; i < all.length; i++) {
                        String handle = "88.118.8/many-" + user.length() + "-" + i;
                        expect(handle, client.resolveHandle(handle)[0].getDataAsString());
                    }
                } finally {
                    threads.shutdownNow();
                }
            });
        }
    }

    /** The older transport, which is the one that encrypts. */
    private static void encryption() throws Exception {
        ChannelPoolMapManager pools = new ChannelPoolMapManager(2, 1, 4);
        TransportOnTcpLogin transport = new TransportOnTcpLogin(
                pools.getLoginChannelPoolMap(), pools.getMessageManager(), RequestIdFactoryDefault.getInstance());
        check("encrypted: login, create and resolve with an RSA key", () -> {
            String handle = "88.118.8/encrypted";
            CreateHandleIdRequest create = new CreateHandleIdRequest(bytes(handle), values(1, "secret on the way"), null);
            expect("1", "" + encrypted(transport, create, RSA).responseCode);
            ResolutionIdRequest resolve = new ResolutionIdRequest(bytes(handle), null, null, null);
            ResolutionIdResponse response = (ResolutionIdResponse) encrypted(transport, resolve, RSA);
            expect("secret on the way", response.getHandleValues()[0].getDataAsString());
        });
        check("encrypted with an SM2 key: refused", () -> {
            ResolutionIdRequest resolve = new ResolutionIdRequest(bytes("88.118.8/pump"), null, null, null);
            try {
                encrypted(transport, resolve, SM2);
            } catch (IDException | ClassCastException error) {
                // This client takes every answer to a set-up for success.
                return;
            }
            throw new AssertionError("not refused");
        });
        pools.close();
    }

    private static AbstractIdResponse encrypted(
            TransportOnTcpLogin transport,
            AbstractIdRequest request,
            String user) throws Exception {
        request.requestId = RequestIdFactoryDefault.getInstance().getNextInteger();
        request.encrypt = true;
        AuthenticationInfo authentication = new PublicKeyAuthenticationInfo(bytes(user), INDEX, key(user));
        LoginInfoPoolKey pool = new LoginInfoPoolKey(node, new ValueReference(bytes(user), INDEX));
        return transport.process(request, pool, authentication).get(20, TimeUnit.SECONDS);
    }

    private static void heartbeat() throws Exception {
        ChannelPoolConfig config = ChannelPoolConfig.builder()
                .idleTimeSeconds(1).heatBeatRunning(true).minConnectionsPerServer(1).maxConnectionsPerServer(1).build();
        ChannelPoolMapManager pools = new ChannelPoolMapManager(1, 10, config, config);
        TransportOnTcp transport = new TransportOnTcp(pools.getChannelPoolMap(), pools.getMessageManager());
        check("the heartbeat of an idle connection is answered", () -> {
            for (int i = 0; i < 2; i++) {
                ResolutionIdRequest request = new ResolutionIdRequest(bytes("88.118.8/pump"), null, null, null);
                request.requestId = RequestIdFactoryDefault.getInstance().getNextInteger();
                expect("1", "" + transport.process(request, node).get(10, TimeUnit.SECONDS).responseCode);
                Thread.sleep(i == 0 ? 3_500 : 0);
            }
        });
        pools.close();
    }

    /** Each of these resolutions leaves a connection behind. */
    private static void abandoned() {
        check("300 resolutions whose connections are never closed", () -> {
            for (int i = 0; i < 300; i++) {
                HandleValue[] values = GlobalIdClientFactory.getIdResolver().resolveHandle("88.118.8/pump");
                expect("https://example.cn/pump", values[0].getDataAsString());
            }
        });
    }

    private static IDClient client(String user) throws Exception {
        return factory.newInstance(node, user, INDEX, key(user));
    }

    private static PrivateKey key(String user) throws Exception {
        switch (user) {
            case RSA: return inFile("admin.pem");
            case SM2: return inFile("sm2.pem");
            case SM2_BINARY: return inFile("sm2-binary.pem");
            default: return inFile("user.pem");
        }
    }

    /** The client signs with SM2 when the key calls itself EC, as those that Bouncy Castle reads do; its own reader's do not. */
    private static PrivateKey inFile(String name) throws Exception {
        String pem = Files.readString(keys.resolve(name));
        if (!name.contains("sm2")) {
            return KeyConverter.fromPkcs8Pem(pem);
        }
        byte[] der = Base64.getMimeDecoder().decode(pem.replaceAll("-----[^-]*-----", ""));
        return KeyFactory.getInstance("EC", new BouncyCastleProvider()).generatePrivate(new PKCS8EncodedKeySpec(der));
    }

    private static HandleValue[] values(int index, String url) {
        return new HandleValue[] {
            new HandleValue(index, "URL", url),
            ValueHelper.getInstance().newAdminValue(100, RSA, 200),
        };
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static void check(String what, Operation operation) {
        try {
            operation.run();
            passed++;
            System.out.println("passes: " + what);
        } catch (Throwable error) {
            failed++;
            System.out.println("FAILS: " + what);
            error.printStackTrace(System.out);
        }
    }

    private static void expect(String expected, String found) {
        if (!expected.equals(found)) {
            throw new AssertionError("expected " + expected + ", found " + found);
        }
    }

    /** The client must see a failure; with this response code, unless that is -1. */
    private static void refused(int code, Operation operation) throws Exception {
        try {
            operation.run();
        } catch (IDException error) {
            if (code != -1 && error.getCode() != code) {
                throw new AssertionError("expected code " + code, error);
            }
            return;
        }
        throw new AssertionError("not refused");
    }
}
