package interop;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import interop.Administrators.Key;
import interop.Client.Transport;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import net.handle.hdllib.AbstractMessage;
import net.handle.hdllib.AbstractRequest;
import net.handle.hdllib.AbstractResponse;
import net.handle.hdllib.AddValueRequest;
import net.handle.hdllib.AuthenticationInfo;
import net.handle.hdllib.ClientSessionTracker;
import net.handle.hdllib.ClientSideSessionInfo;
import net.handle.hdllib.CreateHandleRequest;
import net.handle.hdllib.DeleteHandleRequest;
import net.handle.hdllib.GenericRequest;
import net.handle.hdllib.HandleException;
import net.handle.hdllib.HandleValue;
import net.handle.hdllib.ListNAsRequest;
import net.handle.hdllib.ListNAsResponse;
import net.handle.hdllib.ModifyValueRequest;
import net.handle.hdllib.RemoveValueRequest;
import net.handle.hdllib.ResolutionRequest;
import net.handle.hdllib.ResolutionResponse;
import net.handle.hdllib.ServerInfo;
import net.handle.hdllib.SiteInfo;
import net.handle.hdllib.Util;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * Goal: CNRI's client administers a node as `jiexi init` makes it. Method: the client finds the node through
 * the prefix's HS_SITE, changes something, and the change is looked at by another client without any key.
 * Every test runs with an RSA and a secret key, without a session, in a plain and in an encrypted one.
 */
@Of(Of.Peer.HANDLE_CLIENT)
class ChangeTest {
    private static final List<String> ALL = List.of();
    private static final AtomicInteger NAMES = new AtomicInteger();

    static Stream<Arguments> ways() {
        return Arrays.stream(Key.values())
                .flatMap(key -> Arrays.stream(Session.values()).map(session -> Arguments.of(key, session)));
    }

    @ParameterizedTest
    @MethodSource("ways")
    @Covers(Operation.CREATE)
    void create(Key key, Session session) throws Exception {
        String handle = name();
        HandleValue[] values = {url(1, "https://example.cn/1"), text(2, "离心泵"), hidden(3)};
        Client client = Setting.nodeC(session);
        client.change(new CreateHandleRequest(Util.encodeString(handle), values, Administrators.with(key)));
        assertEquals(List.of("1 https://example.cn/1", "2 离心泵"), seen(handle));
        // That a session was used where one is asked for: the client goes on without one when it gets none.
        ClientSessionTracker tracker = client.resolver.getSessionTracker();
        assertEquals(session == Session.NONE, tracker == null);
        if (tracker != null) {
            ClientSideSessionInfo[] open = tracker.getAllSessions();
            assertEquals(1, open.length);
            assertEquals(session == Session.ENCRYPTED, open[0].getEncryptedMesssageFlag());
        }

        CreateHandleRequest again =
                new CreateHandleRequest(Util.encodeString(handle), values, Administrators.with(key));
        HandleException refused = assertThrows(HandleException.class, () -> client.change(again));
        assertEquals(HandleException.HANDLE_ALREADY_EXISTS, refused.getCode());
    }

    @ParameterizedTest
    @MethodSource("ways")
    @Covers(Operation.CREATE)
    void createOver(Key key, Session session) throws Exception {
        String handle = created();
        HandleValue[] values = {url(7, "https://example.cn/7")};
        CreateHandleRequest over =
                new CreateHandleRequest(Util.encodeString(handle), values, Administrators.with(key), false);
        over.overwriteWhenExists = true;
        AbstractResponse response = Setting.nodeC(session).send(over);
        assertEquals(AbstractMessage.RC_SUCCESS, response.responseCode);
        assertEquals(List.of("7 https://example.cn/7"), seen(handle));
    }

    @ParameterizedTest
    @MethodSource("ways")
    @Covers(Operation.ADD)
    void add(Key key, Session session) throws Exception {
        String handle = created();
        HandleValue[] more = {text(5, "five"), text(4, "four")};
        Client client = Setting.nodeC(session);
        client.change(new AddValueRequest(Util.encodeString(handle), more, Administrators.with(key)));
        assertEquals(List.of("1 https://example.cn/1", "2 two", "4 four", "5 five"), seen(handle));

        AddValueRequest twice =
                new AddValueRequest(Util.encodeString(handle), text(4, "again"), Administrators.with(key));
        HandleException refused = assertThrows(HandleException.class, () -> client.change(twice));
        assertEquals(HandleException.INVALID_VALUE, refused.getCode());
        assertEquals(List.of("1 https://example.cn/1", "2 two", "4 four", "5 five"), seen(handle));
    }

    @ParameterizedTest
    @MethodSource("ways")
    @Covers(Operation.MODIFY)
    void modify(Key key, Session session) throws Exception {
        String handle = created();
        Client client = Setting.nodeC(session);
        client.change(
                new ModifyValueRequest(Util.encodeString(handle), text(2, "二"), Administrators.with(key)));
        assertEquals(List.of("1 https://example.cn/1", "2 二"), seen(handle));

        ModifyValueRequest missing =
                new ModifyValueRequest(Util.encodeString(handle), text(9, "nine"), Administrators.with(key));
        HandleException refused = assertThrows(HandleException.class, () -> client.change(missing));
        assertEquals(HandleException.INVALID_VALUE, refused.getCode());
    }

    @ParameterizedTest
    @MethodSource("ways")
    @Covers(Operation.REMOVE)
    void remove(Key key, Session session) throws Exception {
        String handle = created();
        Client client = Setting.nodeC(session);
        client.change(new RemoveValueRequest(Util.encodeString(handle), 2, Administrators.with(key)));
        assertEquals(List.of("1 https://example.cn/1"), seen(handle));
    }

    @ParameterizedTest
    @MethodSource("ways")
    @Covers(Operation.DELETE)
    void delete(Key key, Session session) throws Exception {
        String handle = created();
        Client client = Setting.nodeC(session);
        client.change(new DeleteHandleRequest(Util.encodeString(handle), Administrators.with(key)));
        HandleException gone = assertThrows(HandleException.class, () -> seen(handle));
        assertEquals(HandleException.HANDLE_DOES_NOT_EXIST, gone.getCode());

        DeleteHandleRequest again = new DeleteHandleRequest(Util.encodeString(handle), Administrators.with(key));
        HandleException refused = assertThrows(HandleException.class, () -> client.change(again));
        assertEquals(HandleException.HANDLE_DOES_NOT_EXIST, refused.getCode());
    }

    @ParameterizedTest
    @MethodSource("ways")
    @Covers(Operation.READ_RESTRICTED)
    void readRestricted(Key key, Session session) throws Exception {
        String handle = created();
        ResolutionRequest request =
                new ResolutionRequest(Util.encodeString(handle), null, new int[] {3}, Administrators.with(key));
        request.ignoreRestrictedValues = false;
        AbstractResponse response = Setting.nodeC(session).send(request);
        assertEquals(AbstractMessage.RC_SUCCESS, response.responseCode);
        HandleValue[] values = ((ResolutionResponse) response).getHandleValues();
        assertEquals(1, values.length);
        assertEquals("for administrators", values[0].getDataAsString());
        assertFalse(values[0].getAnyoneCanRead());
    }

    /** 120 handles: more than two messages of fifty. */
    @ParameterizedTest
    @MethodSource("ways")
    @Covers(Operation.LIST)
    void list(Key key, Session session) throws Exception {
        String prefix = homed(key);
        Client client = Setting.nodeC(session);
        Set<String> expected = new TreeSet<>();
        for (int i = 0; i < 120; i++) {
            String handle = prefix + "/LIST-" + i;
            expected.add(handle);
            client.change(
                    new CreateHandleRequest(
                            Util.encodeString(handle), new HandleValue[] {text(1, "x")}, Administrators.with(key)));
        }
        List<String> found = new ArrayList<>();
        client.resolver.listHandlesUnderPrefix(
                "0.NA/" + prefix, Administrators.with(key), handle -> found.add(Util.decodeString(handle)));
        assertEquals(List.copyOf(expected), found);
    }

    @ParameterizedTest
    @MethodSource("ways")
    @Covers(Operation.HOMING)
    void homing(Key key, Session session) throws Exception {
        String prefix = "88.300." + NAMES.incrementAndGet();
        Client client = Setting.nodeC(session);
        SiteInfo site = site();
        assertFalse(listHomed(client, site).contains("0.NA/" + prefix));

        ask(client, site, new GenericRequest(Util.encodeString("0.NA/" + prefix), AbstractMessage.OC_HOME_NA, rsa()));
        assertTrue(listHomed(client, site).contains("0.NA/" + prefix));
        // Homed means answered for: what was "not responsible" is now "no such handle".
        assertEquals(AbstractMessage.RC_HANDLE_NOT_FOUND, codeOf(prefix + "/x", site));

        ask(client, site, new GenericRequest(Util.encodeString("0.NA/" + prefix), AbstractMessage.OC_UNHOME_NA, rsa()));
        assertFalse(listHomed(client, site).contains("0.NA/" + prefix));
        assertEquals(AbstractMessage.RC_SERVER_NOT_RESP, codeOf(prefix + "/x", site));
    }

    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.CERTIFIED)
    void certified(Transport transport) throws Exception {
        String handle = created();
        Client client = Setting.nodeC(Session.NONE).on(transport);
        SiteInfo site = site();
        AbstractResponse response = client.resolver.sendRequestToSite(certify(handle), site);
        assertEquals(AbstractMessage.RC_SUCCESS, response.responseCode);
        assertNotNull(response.signature);
        assertTrue(response.verifyMessage(site.servers[0].getPublicKey()));
    }

    /** That the client does check: with another key in the site record it takes the answer for forged. */
    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.CERTIFIED)
    void certifiedBySomebodyElse(Transport transport) throws Exception {
        String handle = created();
        Client client = Setting.nodeC(Session.NONE).on(transport);
        SiteInfo site = new SiteInfo(site());
        ServerInfo other = site.servers[0];
        other.publicKey = Setting.records("a").serverKey();
        HandleException forged =
                assertThrows(
                        HandleException.class, () -> client.resolver.sendRequestToSite(certify(handle), site));
        assertEquals(HandleException.MISSING_OR_INVALID_SIGNATURE, forged.getCode());
    }

    @ParameterizedTest
    @MethodSource("ways")
    @Covers(Operation.WRONG_KEY)
    void wrongKey(Key key, Session session) throws Exception {
        String handle = created();
        Client client = Setting.nodeC(session);
        refused(client, new DeleteHandleRequest(Util.encodeString(handle), Administrators.impostor(key)));
        assertEquals(List.of("1 https://example.cn/1", "2 two"), seen(handle));
        // The owner of the name is not locked out by it.
        client.change(new DeleteHandleRequest(Util.encodeString(handle), Administrators.with(key)));
    }

    @ParameterizedTest
    @EnumSource
    @Covers(Operation.MISSING_RIGHT)
    void missingRight(Session session) throws Exception {
        String handle = created();
        byte[] octets = Util.encodeString(handle);
        Client client = Setting.nodeC(session);
        AuthenticationInfo reader = Administrators.reader();
        refused(client, new CreateHandleRequest(Util.encodeString(name()), new HandleValue[] {text(1, "x")}, reader));
        refused(client, new AddValueRequest(octets, text(4, "x"), reader));
        refused(client, new ModifyValueRequest(octets, text(2, "x"), reader));
        refused(client, new RemoveValueRequest(octets, 2, reader));
        refused(client, new DeleteHandleRequest(octets, reader));
        assertEquals(List.of("1 https://example.cn/1", "2 two"), seen(handle));
    }

    /** 8 threads, 500 creates each, on the clients' own connections and sessions; then all 4,000 are there. */
    @ParameterizedTest
    @EnumSource(names = {"NONE", "PLAIN"})
    @Covers(Operation.MANY_CREATED)
    void manyAtOnce(Session session) throws Exception {
        String stem = name();
        AuthenticationInfo admin = Administrators.with(Key.RSA);
        ExecutorService threads = Executors.newFixedThreadPool(8);
        try {
            List<Callable<Void>> work = new ArrayList<>();
            for (int thread = 0; thread < 8; thread++) {
                int number = thread;
                work.add(() -> {
                    Client client = Setting.nodeC(session);
                    for (int i = 0; i < 500; i++) {
                        byte[] handle = Util.encodeString(stem + "-" + number + "-" + i);
                        HandleValue[] values = {text(1, number + " " + i)};
                        client.change(new CreateHandleRequest(handle, values, admin));
                    }
                    return null;
                });
            }
            for (Future<Void> done : threads.invokeAll(work, 240, TimeUnit.SECONDS)) {
                done.get();
            }
        } finally {
            threads.shutdownNow();
        }
        Client reader = Setting.nodeC(Session.NONE);
        SiteInfo site = site();
        for (int number : IntStream.range(0, 8).toArray()) {
            for (int i : IntStream.range(0, 500).toArray()) {
                String handle = stem + "-" + number + "-" + i;
                AbstractResponse response =
                        reader.resolver.sendRequestToSite(Client.request(handle, ALL), site);
                assertEquals(AbstractMessage.RC_SUCCESS, response.responseCode, handle);
                HandleValue[] values = ((ResolutionResponse) response).getHandleValues();
                assertEquals(number + " " + i, values[0].getDataAsString());
            }
        }
    }

    /** A name of this run that is not taken. */
    private static String name() {
        return Administrators.PREFIX + "/t" + NAMES.incrementAndGet();
    }

    /** A new handle with values 1, 2, and 3 for administrators only. */
    private static String created() throws Exception {
        String handle = name();
        HandleValue[] values = {url(1, "https://example.cn/1"), text(2, "two"), hidden(3)};
        Setting.nodeC(Session.NONE)
                .change(new CreateHandleRequest(Util.encodeString(handle), values, Administrators.with(Key.RSA)));
        return handle;
    }

    /** A prefix of its own, homed, with a record that names the prefix's administrators. */
    private static String homed(Key key) throws Exception {
        String prefix = "88.300." + NAMES.incrementAndGet();
        Client client = Setting.nodeC(Session.NONE);
        byte[] handle = Util.encodeString("0.NA/" + prefix);
        ask(client, site(), new GenericRequest(handle, AbstractMessage.OC_HOME_NA, rsa()));
        HandleValue site =
                client.resolve("0.NA/" + Administrators.PREFIX, List.of("HS_SITE")).get(0);
        HandleValue[] values = {site, Administrators.everybody(100)};
        client.change(new CreateHandleRequest(handle, values, Administrators.with(key)));
        return prefix;
    }

    /** What a client without any key reads of a handle. */
    private static List<String> seen(String handle) throws Exception {
        return Setting.nodeC(Session.NONE).resolve(handle, ALL).stream()
                .map(value -> value.getIndex() + " " + value.getDataAsString())
                .toList();
    }

    private static SiteInfo site() throws Exception {
        HandleValue value =
                Setting.nodeC(Session.NONE)
                        .resolve("0.NA/" + Administrators.PREFIX, List.of("HS_SITE"))
                        .get(0);
        return net.handle.hdllib.Encoder.decodeSiteInfoRecord(value.getData(), 0);
    }

    private static void ask(Client client, SiteInfo site, AbstractRequest request) throws Exception {
        request.isAdminRequest = true;
        AbstractResponse response = client.resolver.sendRequestToSite(request, site);
        assertEquals(AbstractMessage.RC_SUCCESS, response.responseCode, response.toString());
    }

    private static List<String> listHomed(Client client, SiteInfo site) throws Exception {
        ListNAsRequest request = new ListNAsRequest(Util.encodeString("0.NA/0.NA"), rsa());
        AbstractResponse response = client.resolver.sendRequestToSite(request, site);
        assertEquals(AbstractMessage.RC_SUCCESS, response.responseCode, response.toString());
        return Arrays.stream(((ListNAsResponse) response).handles).map(Util::decodeString).toList();
    }

    private static AuthenticationInfo rsa() throws Exception {
        return Administrators.with(Key.RSA);
    }

    private static int codeOf(String handle, SiteInfo site) throws Exception {
        Client client = Setting.nodeC(Session.NONE);
        return client.resolver.sendRequestToSite(Client.request(handle, ALL), site).responseCode;
    }

    private static void refused(Client client, AbstractRequest request) {
        HandleException refused = assertThrows(HandleException.class, () -> client.change(request));
        assertEquals(HandleException.UNABLE_TO_AUTHENTICATE, refused.getCode(), refused.toString());
    }

    private static ResolutionRequest certify(String handle) {
        ResolutionRequest request = Client.request(handle, ALL);
        request.certify = true;
        return request;
    }

    private static HandleValue url(int index, String url) {
        return new HandleValue(index, Util.encodeString("URL"), Util.encodeString(url));
    }

    private static HandleValue text(int index, String text) {
        return new HandleValue(index, Util.encodeString("DESC"), Util.encodeString(text));
    }

    private static HandleValue hidden(int index) {
        HandleValue value = text(index, "for administrators");
        value.setAnyoneCanRead(false);
        return value;
    }
}
