package interop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import interop.Client.Transport;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.TreeSet;
import java.util.concurrent.TimeUnit;
import net.handle.hdllib.AbstractMessage;
import net.handle.hdllib.AbstractResponse;
import net.handle.hdllib.HandleException;
import net.handle.hdllib.HandleValue;
import net.handle.hdllib.ResolutionRequest;
import net.handle.hdllib.ResolutionResponse;
import org.junit.jupiter.api.MethodOrderer;
import org.junit.jupiter.api.Order;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestMethodOrder;

/**
 * Goal: a CNRI server is a mirror of jiexi. Method: CNRI server F copies node M from its start; what is in F's own storage
 * is compared with what M was filled with, record by record, and then with what has changed at M meanwhile.
 */
@Of(Of.Peer.CNRI_SERVER)
@Order(Integer.MAX_VALUE) // Meanwhile F copies: each record is signed, and the signature checked.
@TestMethodOrder(MethodOrderer.OrderAnnotation.class)
class MirrorTest {
    private static final List<String> ALL = List.of();
    private static final String LAST = "88.320/DEVICE-09999";
    private static final long PATIENCE_MS = 180_000;

    @Test
    @Order(1)
    @Covers(Operation.MIRROR)
    void everyRecord() throws Exception {
        until(AbstractMessage.RC_SUCCESS, LAST);
        Records copied = stored();
        Records given = Setting.records("m");
        assertEquals(10_000, given.handles().size());
        TreeSet<String> missing = new TreeSet<>(given.handles());
        missing.removeAll(copied.handles());
        assertEquals(new TreeSet<>(), missing, "not copied");
        for (String handle : given.handles()) {
            Compare.same(given.get(handle), copied.get(handle));
        }
        assertEquals(List.of("0.NA/88.320"), copied.homed());
        for (String handle : copied.handles()) {
            assertTrue(
                    copied.get(handle).stream().noneMatch(value -> value.getTypeAsString().equals("HS_SECKEY")),
                    "secrets stay at home: " + handle);
        }
    }

    @Test
    @Order(2)
    @Covers(Operation.MIRROR)
    void everyChange() throws Exception {
        atM("handle", "create", "88.320/NEW", "--value", "1:URL=https://m.example.cn/new");
        atM("value", "set", "88.320/DEVICE-00007", "--value", "1:URL=https://m.example.cn/changed", "--value", "9:DESC=新");
        atM("value", "rm", "88.320/DEVICE-00007", "2");
        atM("handle", "rm", "88.320/DEVICE-00008");
        until(AbstractMessage.RC_HANDLE_NOT_FOUND, "88.320/DEVICE-00008");
        Records copied = stored();
        for (String handle : List.of("88.320/NEW", "88.320/DEVICE-00007")) {
            Compare.same(read("m", handle), read("f", handle));
        }
        assertEquals(
                List.of(1, 3, 9), copied.get("88.320/DEVICE-00007").stream().map(HandleValue::getIndex).toList());
        assertEquals(PreparePeers.COPIED, copied.handles().stream().filter(name -> name.startsWith("88.320/")).count());
    }

    /** What is in the files of F, as a process of its own reads them. */
    private static Records stored() throws Exception {
        Process dump =
                new ProcessBuilder(
                                "java", "-XX:TieredStopAtLevel=1", "-cp", Setting.text("server.classpath"), "Cnri", "dump",
                                Setting.file("f").toString())
                        .redirectError(ProcessBuilder.Redirect.INHERIT)
                        .start();
        String out = new String(dump.getInputStream().readAllBytes(), StandardCharsets.US_ASCII);
        assertTrue(dump.waitFor(PATIENCE_MS, TimeUnit.MILLISECONDS));
        assertEquals(0, dump.exitValue());
        return Records.readLines(out.lines().toList());
    }

    private static void atM(String... what) throws Exception {
        List<String> command = new ArrayList<>(List.of(what));
        command.addAll(List.of("--data", Setting.file("m").toString()));
        Jiexi.run(command).with(0);
    }

    /** Waits until F answers so for a handle: the last of what it is to take over. */
    private static void until(int code, String handle) throws Exception {
        long end = System.currentTimeMillis() + PATIENCE_MS;
        String found = said(handle);
        while (!found.equals("code " + code) && System.currentTimeMillis() < end) {
            Thread.sleep(200);
            found = said(handle);
        }
        assertEquals("code " + code, found, handle);
    }

    /** What F says; while it copies everything, that it is disabled. */
    private static String said(String handle) {
        try {
            return "code " + ask("f", handle).responseCode;
        } catch (HandleException e) {
            return e.toString();
        }
    }

    private static List<HandleValue> read(String node, String handle) throws HandleException {
        return List.of(((ResolutionResponse) ask(node, handle)).getHandleValues());
    }

    private static AbstractResponse ask(String node, String handle) throws HandleException {
        Client client = Setting.at(node, Transport.TCP);
        ResolutionRequest request = Client.request(handle, ALL);
        // What it does not have itself it must not ask for elsewhere.
        request.recursive = false;
        return client.resolver.sendRequestToSite(request, client.site);
    }
}
