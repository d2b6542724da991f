package interop;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.List;
import net.handle.hdllib.HandleValue;

/** Compares values field by field, so that a failure names the field and not only the value. */
final class Compare {
    private Compare() {}

    static void same(List<HandleValue> expected, List<HandleValue> found) {
        assertEquals(
                expected.stream().map(HandleValue::getIndex).toList(),
                found.stream().map(HandleValue::getIndex).toList(),
                "indexes, in order");
        for (int i = 0; i < expected.size(); i++) {
            same(expected.get(i), found.get(i));
        }
    }

    private static void same(HandleValue expected, HandleValue found) {
        String at = "index " + expected.getIndex() + ": ";
        assertEquals(expected.getTypeAsString(), found.getTypeAsString(), at + "type");
        assertArrayEquals(expected.getData(), found.getData(), at + "data");
        assertEquals(expected.getPermissionString(), found.getPermissionString(), at + "permissions");
        assertEquals(expected.getTTLType(), found.getTTLType(), at + "ttl type");
        assertEquals(expected.getTTL(), found.getTTL(), at + "ttl");
        assertEquals(expected.getTimestamp(), found.getTimestamp(), at + "timestamp");
        assertArrayEquals(expected.getReferences(), found.getReferences(), at + "references");
    }
}
