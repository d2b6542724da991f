package interop;

import net.handle.hdllib.ClientSessionTracker;
import net.handle.hdllib.SessionSetupInfo;

/** Whether the client opens a session for administration, and how it uses it. */
enum Session {
    NONE,
    PLAIN,
    ENCRYPTED;

    /** A new tracker, so that every client opens a session of its own; none without sessions. */
    ClientSessionTracker tracker() {
        if (this == NONE) {
            return null;
        }
        SessionSetupInfo setup = new SessionSetupInfo();
        setup.encrypted = this == ENCRYPTED;
        return new ClientSessionTracker(setup);
    }
}
