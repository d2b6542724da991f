package interop;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.api.extension.ExtensionContext;
import org.junit.jupiter.api.extension.TestWatcher;

/**
 * Client × operation × result. While the tests run, each outcome is a line of a file; afterwards `main`
 * makes the table of it that stands in the README.
 */
public final class Matrix implements TestWatcher {
    private static final String PASSED = "passed";

    /** Passed and failed tests of one cell. */
    private static final class Cell {
        private int passed;
        private int failed;

        private String text() {
            return failed > 0 ? failed + " of " + (passed + failed) + " FAIL" : "passes (" + passed + ")";
        }
    }

    @Override
    public void testSuccessful(ExtensionContext test) {
        record(test, PASSED);
    }

    @Override
    public void testFailed(ExtensionContext test, Throwable cause) {
        record(test, "failed");
    }

    @Override
    public void testAborted(ExtensionContext test, Throwable cause) {
        record(test, "aborted");
    }

    private static void record(ExtensionContext test, String outcome) {
        Operation operation = test.getRequiredTestMethod().getAnnotation(Covers.class).value();
        Of own = test.getRequiredTestMethod().getAnnotation(Of.class);
        Of of = own != null ? own : test.getRequiredTestClass().getAnnotation(Of.class);
        String client = of.value().column();
        String line = String.join("\t", client, operation.name(), outcome) + "\n";
        try {
            Files.writeString(
                    Path.of(Setting.text("outcomes")),
                    line,
                    StandardCharsets.UTF_8,
                    StandardOpenOption.CREATE,
                    StandardOpenOption.APPEND);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** Prints the table of the outcomes in a file. */
    public static void main(String[] arguments) throws IOException {
        Map<String, Map<Operation, Cell>> clients = new TreeMap<>();
        for (String line : Files.readAllLines(Path.of(arguments[0]), StandardCharsets.UTF_8)) {
            String[] fields = line.split("\t");
            Cell cell =
                    clients.computeIfAbsent(fields[0], name -> new EnumMap<>(Operation.class))
                            .computeIfAbsent(Operation.valueOf(fields[1]), operation -> new Cell());
            if (fields[2].equals(PASSED)) {
                cell.passed++;
            } else {
                cell.failed++;
            }
        }
        List<String> names = List.copyOf(clients.keySet());
        System.out.println("| operation | " + String.join(" | ", names) + " |");
        System.out.println("|---|" + "---|".repeat(names.size()));
        for (Operation operation : Operation.values()) {
            StringBuilder row = new StringBuilder("| ").append(operation.text).append(" |");
            for (String name : names) {
                Cell cell = clients.get(name).get(operation);
                row.append(' ').append(cell == null ? "—" : cell.text()).append(" |");
            }
            System.out.println(row);
        }
    }
}
