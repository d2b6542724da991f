package interop;

import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import net.handle.hdllib.Encoder;
import net.handle.hdllib.HandleException;
import net.handle.hdllib.HandleValue;

/**
 * The NDJSON files the nodes import: the homed prefixes, then one handle a line, each value in wire form as
 * hex. Values are coded by CNRI's Encoder, so that neither side of a comparison comes from jiexi.
 */
final class Records {
    private final List<String> homed = new ArrayList<>();
    private final Map<String, List<HandleValue>> records = new LinkedHashMap<>();

    static Records read(Path file) throws IOException, HandleException {
        Records all = new Records();
        for (String line : Files.readAllLines(file, StandardCharsets.UTF_8)) {
            if (line.isBlank()) {
                continue;
            }
            JsonObject record = new Gson().fromJson(line, JsonObject.class);
            if (record.has("prefix")) {
                all.homed.add(record.get("prefix").getAsString());
                continue;
            }
            List<HandleValue> values = new ArrayList<>();
            for (var hex : record.getAsJsonArray("values_hex")) {
                HandleValue value = new HandleValue();
                Encoder.decodeHandleValue(HexFormat.of().parseHex(hex.getAsString()), 0, value);
                values.add(value);
            }
            all.records.put(record.get("handle").getAsString(), values);
        }
        return all;
    }

    void write(Path file) throws IOException {
        StringBuilder out = new StringBuilder();
        for (String prefix : homed) {
            JsonObject line = new JsonObject();
            line.addProperty("prefix", prefix);
            out.append(line).append('\n');
        }
        for (var entry : records.entrySet()) {
            JsonObject record = new JsonObject();
            record.addProperty("handle", entry.getKey());
            JsonArray values = new JsonArray();
            for (HandleValue value : entry.getValue()) {
                values.add(HexFormat.of().formatHex(Encoder.encodeHandleValue(value)));
            }
            record.add("values_hex", values);
            out.append(record).append('\n');
        }
        Files.writeString(file, out, StandardCharsets.UTF_8);
    }

    /** The same as lines of handle and values in wire form, as hex: what a CNRI server is filled with. */
    void writeLines(Path file) throws IOException {
        HexFormat hex = HexFormat.of();
        StringBuilder out = new StringBuilder();
        for (var entry : records.entrySet()) {
            out.append(hex.formatHex(entry.getKey().getBytes(StandardCharsets.UTF_8))).append(' ');
            for (HandleValue value : entry.getValue()) {
                out.append(hex.formatHex(Encoder.encodeHandleValue(value)));
            }
            out.append('\n');
        }
        Files.writeString(file, out, StandardCharsets.US_ASCII);
    }

    /** The other way round, with what lines of one word name as homed. */
    static Records readLines(List<String> lines) throws HandleException {
        HexFormat hex = HexFormat.of();
        Records all = new Records();
        for (String line : lines) {
            String[] words = line.split(" ", 2);
            String name = new String(hex.parseHex(words[0]), StandardCharsets.UTF_8);
            if (words.length == 1) {
                all.homed.add(name);
                continue;
            }
            byte[] wire = hex.parseHex(words[1]);
            List<HandleValue> values = new ArrayList<>();
            for (int at = 0; at < wire.length; ) {
                HandleValue value = new HandleValue();
                at += Encoder.decodeHandleValue(wire, at, value);
                values.add(value);
            }
            all.records.put(name, values);
        }
        return all;
    }

    /** The names of the handles. */
    Set<String> handles() {
        return records.keySet();
    }

    /** The prefix handles that are homed. */
    List<String> homed() {
        return homed;
    }

    void home(String prefix) {
        homed.add(prefix);
    }

    void put(String handle, HandleValue... values) {
        records.put(handle, new ArrayList<>(List.of(values)));
    }

    /** All values of a handle, in index order as the files have them. */
    List<HandleValue> get(String handle) {
        List<HandleValue> values = records.get(handle);
        if (values == null) {
            throw new IllegalArgumentException("no record " + handle + " in the test data");
        }
        return values;
    }

    /** The key of the server that the first HS_SITE of the file names. */
    byte[] serverKey() throws HandleException {
        for (List<HandleValue> values : records.values()) {
            for (HandleValue value : values) {
                if (value.getTypeAsString().equals("HS_SITE")) {
                    return Encoder.decodeSiteInfoRecord(value.getData(), 0).servers[0].publicKey;
                }
            }
        }
        throw new IllegalArgumentException("no HS_SITE in the test data");
    }

    /** What an anonymous client may see of a handle. */
    List<HandleValue> visible(String handle) {
        return get(handle).stream().filter(HandleValue::getAnyoneCanRead).toList();
    }
}
