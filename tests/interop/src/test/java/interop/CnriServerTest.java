package interop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import interop.Client.Transport;
import interop.Jiexi.Done;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Stream;
import net.handle.hdllib.AbstractMessage;
import net.handle.hdllib.AbstractResponse;
import net.handle.hdllib.HandleException;
import net.handle.hdllib.HandleValue;
import net.handle.hdllib.ResolutionResponse;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Goal: jiexi's commands resolve and administer at a CNRI server as they do at jiexi. Method: the commands ask server E;
 * what they print is compared with what the server was filled with, and what they change with what CNRI's client reads
 * there. The administrator's key is a value at E itself, or at jiexi, which E then asks for it.
 */
@Of(Of.Peer.JIEXI)
class CnriServerTest {
    private static final List<String> ALL = List.of();
    private static final AtomicInteger NAMES = new AtomicInteger();
    private static final int NOT_FOUND = 3;

    /** How the administrator proves who they are. */
    enum Key {
        RSA(300),
        SECRET(301);

        private final int index;

        Key(int index) {
            this.index = index;
        }
    }

    /** Where the key, or its public half, is. */
    enum Home {
        CNRI("88.310.1/ADMIN"),
        JIEXI("0.NA/88.310.1");

        private final String handle;

        Home(String handle) {
            this.handle = handle;
        }
    }

    static Stream<Arguments> ways() {
        return Arrays.stream(Key.values())
                .flatMap(key -> Arrays.stream(Home.values()).map(home -> Arguments.of(key, home)));
    }

    @ParameterizedTest
    @ValueSource(strings = {"--udp", "--tcp"})
    @Covers(Operation.RESOLVE)
    void allPublicValues(String transport) throws Exception {
        for (String handle : List.of("88.401/PUMP", "88.401/工业标识", "88.401/MANY", "88.310.1/ADMIN")) {
            List<HandleValue> found = resolve(handle, transport).with(0).values();
            Compare.same(Setting.records("e").visible(handle), found);
        }
        // Asked in another spelling.
        Compare.same(Setting.records("e").visible("88.401/PUMP"), resolve("88.401/pUmp", transport).with(0).values());
    }

    @ParameterizedTest
    @ValueSource(strings = {"--udp", "--tcp"})
    @Covers(Operation.RESOLVE)
    void largeRecord(String transport) throws Exception {
        List<HandleValue> found = resolve("88.401/BIG", transport).with(0).values();
        Compare.same(Setting.records("e").visible("88.401/BIG"), found);
    }

    @ParameterizedTest
    @ValueSource(strings = {"--udp", "--tcp"})
    @Covers(Operation.RESOLVE)
    void byTypeAndIndex(String transport) throws Exception {
        assertEquals(List.of(1), indexes(resolve("88.401/PUMP", transport, "--type", "URL")));
        assertEquals(List.of(2, 4), indexes(resolve("88.401/PUMP", transport, "--type", "EMAIL", "--index", "4")));
    }

    @ParameterizedTest
    @ValueSource(strings = {"--udp", "--tcp"})
    @Covers(Operation.REFUSED)
    void whatIsNotThere(String transport) throws Exception {
        resolve("88.401/none", transport).with(NOT_FOUND).saying("code 100");
        resolve("88.401/PUMP", transport, "--type", "NONE").with(NOT_FOUND).saying("code 200");
        resolve("88.310.1/ADMIN", transport, "--index", "301").with(NOT_FOUND).saying("no value as asked for");
        resolve("10.9999/x", transport).with(1).saying("code 301");
    }

    @ParameterizedTest
    @ValueSource(strings = {"--udp", "--tcp"})
    @Covers(Operation.ANSWER)
    void requestDigest(String transport) throws Exception {
        Compare.same(
                Setting.records("e").visible("88.401/PUMP"),
                resolve("88.401/PUMP", transport, "--digest").with(0).values());
    }

    @ParameterizedTest
    @MethodSource("ways")
    @Covers(Operation.CREATE)
    void create(Key key, Home home) throws Exception {
        String handle = name();
        ask(key, home, "handle", "create", handle, "--value", "1:URL=https://example.cn/1", "--value", "2:DESC=离心泵")
                .with(0);
        assertEquals(List.of("1 https://example.cn/1", "2 离心泵"), seen(handle));
        ask(key, home, "handle", "create", handle, "--value", "1:URL=x").with(1).saying("code 101");
    }

    @ParameterizedTest
    @MethodSource("ways")
    @Covers(Operation.CREATE)
    void put(Key key, Home home) throws Exception {
        String handle = name();
        ask(key, home, "handle", "put", handle, "--value", "1:URL=https://example.cn/1").with(0);
        assertEquals(List.of("1 https://example.cn/1"), seen(handle));
    }

    @ParameterizedTest
    @MethodSource("ways")
    @Covers(Operation.ADD)
    void add(Key key, Home home) throws Exception {
        String handle = created(key, home);
        ask(key, home, "value", "add", handle, "--value", "4:DESC=four").with(0);
        assertEquals(List.of("1 https://example.cn/1", "2 two", "4 four"), seen(handle));
        ask(key, home, "value", "add", handle, "--value", "4:DESC=again").with(1);
        assertEquals(List.of("1 https://example.cn/1", "2 two", "4 four"), seen(handle));
    }

    /** On this JVM the server fails to agree on a key for a session, so that what is restricted goes in clear or not. */
    @ParameterizedTest
    @MethodSource("ways")
    @Covers(Operation.READ_RESTRICTED)
    void readRestricted(Key key, Home home) throws Exception {
        String handle = created(key, home);
        ask(key, home, "value", "add", handle, "--value", "3:DESC=for administrators", "--permissions", "1100").with(0);
        assertEquals(List.of("1 https://example.cn/1", "2 two"), seen(handle));
        ask(key, home, "handle", "get", handle).with(1).saying("opens no session").saying("--clear");
        List<HandleValue> found = ask(key, home, "handle", "get", handle, "--clear", "-o", "json").with(0).values();
        HandleValue restricted = found.stream().filter(value -> value.getIndex() == 3).findFirst().orElseThrow();
        assertEquals("for administrators", restricted.getDataAsString());
        assertFalse(restricted.getAnyoneCanRead());
    }

    /** The server cannot add over what is there: what is there is modified, the rest added. */
    @ParameterizedTest
    @MethodSource("ways")
    @Covers(Operation.MODIFY)
    void set(Key key, Home home) throws Exception {
        String handle = created(key, home);
        ask(key, home, "value", "set", handle, "--value", "2:DESC=二", "--value", "7:DESC=seven").with(0);
        assertEquals(List.of("1 https://example.cn/1", "2 二", "7 seven"), seen(handle));
        ask(key, home, "handle", "put", handle, "--value", "1:URL=x").with(1).saying("too old to replace a handle");
        assertEquals(List.of("1 https://example.cn/1", "2 二", "7 seven"), seen(handle));
    }

    @ParameterizedTest
    @MethodSource("ways")
    @Covers(Operation.REMOVE)
    void remove(Key key, Home home) throws Exception {
        String handle = created(key, home);
        ask(key, home, "value", "rm", handle, "2").with(0);
        assertEquals(List.of("1 https://example.cn/1"), seen(handle));
    }

    @ParameterizedTest
    @MethodSource("ways")
    @Covers(Operation.DELETE)
    void delete(Key key, Home home) throws Exception {
        String handle = created(key, home);
        ask(key, home, "handle", "rm", handle).with(0);
        HandleException gone = assertThrows(HandleException.class, () -> seen(handle));
        assertEquals(HandleException.HANDLE_DOES_NOT_EXIST, gone.getCode());
        ask(key, home, "handle", "rm", handle).with(NOT_FOUND);
    }

    @ParameterizedTest
    @MethodSource("ways")
    @Covers(Operation.LIST)
    void list(Key key, Home home) throws Exception {
        String handle = created(key, home);
        Done listed = ask(key, home, "handle", "list", "88.310.1").with(0);
        List<String> names = List.of(listed.out().strip().split("\n"));
        assertTrue(names.contains(handle.toUpperCase()) && names.contains("88.310.1/PRESS"), names.toString());
    }

    @ParameterizedTest
    @MethodSource("ways")
    @Covers(Operation.WRONG_KEY)
    void wrongKey(Key key, Home home) throws Exception {
        String handle = created(key, home);
        List<String> wrong = List.of("handle", "rm", handle, "--server", Setting.server("e"), "--identity",
                key.index + ":" + home.handle, key == Key.RSA ? "--key" : "--secret-file",
                Setting.file(key == Key.RSA ? "m/admin.key" : "peer.key").toString());
        Jiexi.run(wrong).with(1).saying("code 403");
        assertEquals(List.of("1 https://example.cn/1", "2 two"), seen(handle));
    }

    private static Done resolve(String handle, String transport, String... more) throws Exception {
        List<String> command = new ArrayList<>(List.of("resolve", handle, "--server", Setting.server("e"), transport));
        command.addAll(List.of("-o", "json"));
        command.addAll(List.of(more));
        return Jiexi.run(command);
    }

    private static Done ask(Key key, Home home, String... what) throws Exception {
        List<String> command = new ArrayList<>(List.of(what));
        command.addAll(List.of("--server", Setting.server("e"), "--identity", key.index + ":" + home.handle));
        command.addAll(
                switch (key) {
                    case RSA -> List.of("--key", Setting.file("peer.key").toString());
                    case SECRET -> List.of("--secret-file", Setting.file("peer.secret").toString());
                });
        return Jiexi.run(command);
    }

    private static String created(Key key, Home home) throws Exception {
        String handle = name();
        // Unlike jiexi, the server knows administrators of handles that exist only by their own HS_ADMIN.
        ask(key, home, "handle", "create", handle, "--value", "1:URL=https://example.cn/1", "--value", "2:DESC=two",
                        "--admin", "200:0.NA/88.310.1")
                .with(0);
        return handle;
    }

    private static String name() {
        return "88.310.1/t" + NAMES.incrementAndGet();
    }

    /** What CNRI's client reads of a handle at the server, without any key. */
    private static List<String> seen(String handle) throws Exception {
        Client client = Setting.at("e", Transport.TCP);
        AbstractResponse response = client.resolver.sendRequestToSite(Client.request(handle, ALL), client.site);
        if (response.responseCode != AbstractMessage.RC_SUCCESS) {
            throw HandleException.ofResponse(response);
        }
        return Arrays.stream(((ResolutionResponse) response).getHandleValues())
                .filter(value -> !value.getTypeAsString().equals("HS_ADMIN"))
                .map(value -> value.getIndex() + " " + value.getDataAsString())
                .toList();
    }

    private static List<Integer> indexes(Done found) {
        return found.with(0).values().stream().map(HandleValue::getIndex).toList();
    }
}
