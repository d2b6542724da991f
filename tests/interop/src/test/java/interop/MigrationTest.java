package interop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.Gson;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.TimeUnit;
import net.handle.hdllib.Encoder;
import net.handle.hdllib.HandleValue;
import org.junit.jupiter.api.MethodOrderer;
import org.junit.jupiter.api.Order;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestMethodOrder;

/**
 * Goal: a whole node moves from a CNRI server to jiexi without losing anything. Method: CNRI server G is copied while it
 * runs; then what is in G's own storage, as its own code scans it, is compared with an export of node H, record by record
 * in wire form. It has 50,000 handles, or as many as MIGRATED says.
 */
@Of(Of.Peer.JIEXI)
@Order(Integer.MAX_VALUE - 1)
@TestMethodOrder(MethodOrderer.OrderAnnotation.class)
class MigrationTest {
    private static final int HANDLES = Integer.parseInt(Setting.text("migrated"));
    /** Each record is signed by the one and checked by the other, on machines that do much else. */
    private static final long PATIENCE_S = 120 + HANDLES / 500;

    /** Handles, with a digest of their values in wire form; and prefixes. */
    private record Contents(TreeMap<String, String> records, TreeSet<String> prefixes) {
        Contents() {
            this(new TreeMap<>(), new TreeSet<>());
        }
    }

    @Test
    @Order(1)
    @Covers(Operation.MIGRATE)
    void allHandles() throws Exception {
        JsonObject done = Jiexi.run(copying("-o", "json"), PATIENCE_S).with(0).json();
        JsonObject handles = done.getAsJsonObject("handles");
        assertEquals(HANDLES, handles.get("received").getAsInt());
        assertEquals(HANDLES, handles.get("new").getAsInt());
        assertEquals(0, handles.get("refused").getAsInt());
        assertTrue(done.get("complete").getAsBoolean());
    }

    @Test
    @Order(2)
    @Covers(Operation.MIGRATE)
    void everyRecord() throws Exception {
        Contents there = atCnri();
        assertEquals(HANDLES, there.records.size());
        same(there, atJiexi());
        Jiexi.run(List.of("store", "verify", "--data", Setting.file("h").toString()), PATIENCE_S).with(0);
    }

    private static void same(Contents there, Contents here) {
        assertEquals(there.prefixes, here.prefixes);
        assertEquals(new TreeSet<>(), without(there.records.keySet(), here.records.keySet()), "not copied");
        assertEquals(new TreeSet<>(), without(here.records.keySet(), there.records.keySet()), "not there");
        TreeSet<String> other = new TreeSet<>();
        there.records.forEach(
                (handle, digest) -> {
                    if (!digest.equals(here.records.get(handle))) {
                        other.add(handle);
                    }
                });
        assertEquals(new TreeSet<>(), other, "here otherwise");
    }

    private static TreeSet<String> without(Iterable<String> all, Set<String> some) {
        TreeSet<String> left = new TreeSet<>();
        for (String handle : all) {
            if (!some.contains(handle)) {
                left.add(handle);
            }
        }
        return left;
    }

    private static List<String> copying(String... more) {
        List<String> command =
                new ArrayList<>(
                        List.of(
                                "migrate", "dump", "--server", Setting.server("g"), "--clear", "--identity", "300:88.330/ADMIN",
                                "--key", Setting.file("peer.key").toString(), "--data", Setting.file("h").toString()));
        command.addAll(Arrays.asList(more));
        return command;
    }

    /** What node H has, but for what it was set up with. */
    private static Contents atJiexi() throws Exception {
        Contents all = new Contents();
        HexFormat hex = HexFormat.of();
        Gson gson = new Gson();
        List<String> export =
                List.of("export", "--hex", "--with-secrets", "--data", Setting.file("h").toString());
        Process process = Jiexi.start(export);
        for (String line : lines(process)) {
            JsonObject record = gson.fromJson(line, JsonObject.class);
            if (record.has("prefix")) {
                all.prefixes.add("0.NA/" + record.get("prefix").getAsString());
                continue;
            }
            List<byte[]> values = new ArrayList<>();
            for (JsonElement value : record.getAsJsonArray("values_hex")) {
                values.add(hex.parseHex(value.getAsString()));
            }
            all.records.put(record.get("handle").getAsString(), digest(values));
        }
        all.records.keySet().removeIf(handle -> handle.contains("88.339"));
        all.prefixes.remove("0.NA/88.339");
        return all;
    }

    /** What is in the files of server G, as a process of its own reads them. */
    private static Contents atCnri() throws Exception {
        Contents all = new Contents();
        HexFormat hex = HexFormat.of();
        Process process =
                new ProcessBuilder(
                                "java", "-XX:TieredStopAtLevel=1", "-cp", Setting.text("server.classpath"), "Cnri", "dump",
                                Setting.file("g").toString())
                        .redirectError(ProcessBuilder.Redirect.INHERIT)
                        .start();
        for (String line : lines(process)) {
            String[] words = line.split(" ", 2);
            String name = new String(hex.parseHex(words[0]), StandardCharsets.UTF_8);
            if (words.length == 1) {
                all.prefixes.add(name);
                continue;
            }
            byte[] wire = hex.parseHex(words[1]);
            TreeMap<Integer, byte[]> values = new TreeMap<>();
            for (int at = 0; at < wire.length; ) {
                HandleValue value = new HandleValue();
                int length = Encoder.decodeHandleValue(wire, at, value);
                values.put(value.getIndex(), Arrays.copyOfRange(wire, at, at + length));
                at += length;
            }
            all.records.put(name, digest(values.values()));
        }
        return all;
    }

    private static Iterable<String> lines(Process process) throws Exception {
        BufferedReader reader =
                new BufferedReader(new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8), 1 << 16);
        List<String> lines = reader.lines().toList();
        assertTrue(process.waitFor(PATIENCE_S, TimeUnit.SECONDS));
        assertEquals(0, process.exitValue());
        return lines;
    }

    /** A digest of values in wire form. */
    private static String digest(Iterable<byte[]> values) throws Exception {
        MessageDigest sha = MessageDigest.getInstance("SHA-256");
        for (byte[] value : values) {
            sha.update(value);
        }
        return HexFormat.of().formatHex(sha.digest(), 0, 16);
    }
}
