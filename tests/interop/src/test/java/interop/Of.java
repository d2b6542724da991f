package interop;

import java.lang.annotation.ElementType;
import java.lang.annotation.Retention;
import java.lang.annotation.RetentionPolicy;
import java.lang.annotation.Target;

/** Whose tests a class has: the column of the matrix. */
@Target(ElementType.TYPE)
@Retention(RetentionPolicy.RUNTIME)
@interface Of {
    Peer value();

    /** The clients under test. */
    enum Peer {
        HANDLE_CLIENT("handle-client", "handle-client.version");

        private final String name;
        private final String version;

        Peer(String name, String version) {
            this.name = name;
            this.version = version;
        }

        String column() {
            return name + " " + Setting.text(version);
        }
    }
}
