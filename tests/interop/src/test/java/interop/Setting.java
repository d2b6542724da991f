package interop;

import interop.Client.Transport;
import java.nio.file.Path;

/** Where run.sh started the nodes, and the records they were given. */
final class Setting {
    private Setting() {}

    static Client nodeA(Transport transport) {
        return new Client(text("a.address"), Integer.parseInt(text("a.port")), transport);
    }

    static Client nodeB(Transport transport) {
        return new Client(text("b.address"), Integer.parseInt(text("b.port")), transport);
    }

    static Records records(String node) throws Exception {
        return Records.read(Path.of(text("data"), node + ".ndjson"));
    }

    static String text(String key) {
        String value = System.getProperty("interop." + key);
        if (value == null) {
            throw new IllegalStateException("interop." + key + " is not set: start the tests with run.sh");
        }
        return value;
    }
}
