package interop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.Gson;
import com.google.gson.JsonObject;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import net.handle.hdllib.GsonUtility;
import net.handle.hdllib.HandleValue;
import net.handle.hdllib.ValueReference;

/** The program under test, as a person runs it. */
final class Jiexi {
    private static final long PATIENCE_S = 60;

    private Jiexi() {}

    /** What a command has said, and how it ended. */
    record Done(List<String> command, int code, String out, String err) {
        /** That it ended so; otherwise what it said is told. */
        Done with(int expected) {
            assertEquals(expected, code, () -> String.join(" ", command) + "\n" + out + err);
            return this;
        }

        /** That it says why. */
        Done saying(String text) {
            assertTrue(err.contains(text), () -> String.join(" ", command) + "\n" + err);
            return this;
        }

        JsonObject json() {
            return new Gson().fromJson(out, JsonObject.class);
        }

        /** The values in its JSON, read by CNRI's own code. */
        List<HandleValue> values() {
            HandleValue[] values = GsonUtility.getGson().fromJson(json().get("values"), HandleValue[].class);
            for (HandleValue value : values) {
                // Its JSON has them only where there are any.
                if (value.getReferences() == null) {
                    value.setReferences(new ValueReference[0]);
                }
            }
            return List.of(values);
        }
    }

    /** Runs a command to its end; nothing of the surroundings decides for it. */
    static Done run(List<String> arguments) throws IOException, InterruptedException {
        return run(arguments, PATIENCE_S);
    }

    /** The same of one that may take long. */
    static Done run(List<String> arguments, long patience) throws IOException, InterruptedException {
        Path errors = Files.createTempFile(Setting.file("."), "jiexi", ".err");
        Process process = start(arguments, ProcessBuilder.Redirect.to(errors.toFile()));
        String out = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertTrue(process.waitFor(patience, TimeUnit.SECONDS), () -> arguments + " does not end");
        String err = Files.readString(errors);
        Files.delete(errors);
        return new Done(arguments, process.exitValue(), out, err);
    }

    /** Starts a command. */
    static Process start(List<String> arguments) throws IOException {
        return start(arguments, ProcessBuilder.Redirect.DISCARD);
    }

    private static Process start(List<String> arguments, ProcessBuilder.Redirect errors) throws IOException {
        List<String> command = new ArrayList<>(arguments);
        command.add(0, Setting.text("jiexi"));
        ProcessBuilder builder = new ProcessBuilder(command).redirectError(errors);
        builder.environment().keySet().removeIf(name -> name.startsWith("JIEXI_"));
        Process process = builder.start();
        process.getOutputStream().close();
        return process;
    }

    static Done run(String... arguments) throws IOException, InterruptedException {
        return run(List.of(arguments));
    }
}
