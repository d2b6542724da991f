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

    static Client nodeC(Transport transport) {
        return new Client(text("c.address"), Integer.parseInt(text("c.port")), transport);
    }

    /** The node as `jiexi init` leaves it; its administrator's client knows no more than where it listens. */
    static Client nodeC(Session session) {
        String address = text("c.address");
        int port = Integer.parseInt(text("c.port"));
        return new Client(address, port, Transport.UDP_THEN_TCP).with(session);
    }

    /** A node of the run, or a CNRI server, which speaks an old version of the protocol. */
    static Client at(String name, Transport transport) {
        Client client = new Client("127.0.0.1", Integer.parseInt(text(name + ".port")), transport);
        if (name.equals("e") || name.equals("f")) {
            client.site.minorProtocolVersion = 1;
        }
        return client;
    }

    /** Where a node listens, as the commands of jiexi take it. */
    static String server(String name) {
        return "127.0.0.1:" + text(name + ".port");
    }

    /** A file that run.sh or a node has written. */
    static Path file(String name) {
        return Path.of(text("data"), name);
    }

    static Records records(String node) throws Exception {
        return Records.read(file(node + ".ndjson"));
    }

    static String text(String key) {
        String value = System.getProperty("interop." + key);
        if (value == null) {
            throw new IllegalStateException("interop." + key + " is not set: start the tests with run.sh");
        }
        return value;
    }
}
