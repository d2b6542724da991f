package interop;

import java.lang.annotation.ElementType;
import java.lang.annotation.Retention;
import java.lang.annotation.RetentionPolicy;
import java.lang.annotation.Target;

/** Whose test this is, or whose tests a class has: the column of the matrix. */
@Target({ElementType.TYPE, ElementType.METHOD})
@Retention(RetentionPolicy.RUNTIME)
@interface Of {
    Peer value();

    /** The clients under test, and what they work with. */
    enum Peer {
        /** CNRI's Java client at jiexi. */
        HANDLE_CLIENT("handle-client %s", "handle-client.version"),
        /** jiexi's own client, at jiexi as well where a question begins there. */
        JIEXI("jiexi at CNRI server %s", "cnri-server.version"),
        /** CNRI's server, which asks jiexi for keys and rights of its users, and copies it. */
        CNRI_SERVER("CNRI server %s at jiexi", "cnri-server.version");

        private final String name;
        private final String version;

        Peer(String name, String version) {
            this.name = name;
            this.version = version;
        }

        String column() {
            return name.formatted(Setting.text(version));
        }
    }
}
