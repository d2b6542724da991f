package interop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import interop.Client.Transport;
import java.util.List;
import java.util.stream.StreamSupport;
import net.handle.hdllib.AbstractMessage;
import net.handle.hdllib.AbstractResponse;
import net.handle.hdllib.HandleException;
import net.handle.hdllib.HandleValue;
import net.handle.hdllib.ResolutionResponse;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Goal: what is at home at a CNRI server is reached through jiexi. Method: node R delegates 88.310.1 to CNRI server E, and
 * asks it as its upstream for prefixes that it does not know, such as 88.401.
 */
@Of(Of.Peer.HANDLE_CLIENT)
class RecursionTest {
    private static final List<String> ALL = List.of();

    /** R is asked, and nobody else. */
    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.RECURSE)
    void recursion(Transport transport) throws Exception {
        for (String handle : List.of("88.310.1/PRESS", "88.401/PUMP", "88.401/工业标识", "88.401/BIG", "88.401/MANY")) {
            AbstractResponse response = atR(handle, transport);
            assertEquals(AbstractMessage.RC_SUCCESS, response.responseCode, handle + ": " + response);
            String filled = handle.replace("PRESS", "press");
            Compare.same(
                    Setting.records("e").visible(filled),
                    List.of(((ResolutionResponse) response).getHandleValues()));
        }
        assertEquals(AbstractMessage.RC_HANDLE_NOT_FOUND, atR("88.401/none", transport).responseCode);
        assertEquals(AbstractMessage.RC_HANDLE_NOT_FOUND, atR("88.310.1/none", transport).responseCode);
        assertEquals(AbstractMessage.RC_SERVER_NOT_RESP, atR("10.9999/x", transport).responseCode);
    }

    /** The prefix's HS_SITE at R names E; the client goes there by itself. */
    @ParameterizedTest
    @EnumSource
    @Covers(Operation.REFER)
    void delegatedToACnriServer(Transport transport) throws Exception {
        Client client = Setting.at("r", transport);
        Compare.same(Setting.records("e").visible("88.310.1/press"), client.resolve("88.310.1/PRESS", ALL));
        HandleException none = assertThrows(HandleException.class, () -> client.resolve("88.310.1/none", ALL));
        assertEquals(HandleException.HANDLE_DOES_NOT_EXIST, none.getCode());
    }

    /** Node C, which does not recurse, delegates to D, and D to E. */
    @ParameterizedTest
    @ValueSource(strings = {"--udp", "--tcp"})
    @Of(Of.Peer.JIEXI)
    @Covers(Operation.REFER)
    void jiexiFollowsToo(String transport) throws Exception {
        Jiexi.Done found =
                Jiexi.run("resolve", "88.300.7.1/VALVE", "--server", Setting.server("d"), transport, "--trace", "-o", "json");
        Compare.same(Setting.records("e").visible("88.300.7.1/valve"), found.with(0).values());
        assertEquals(
                List.of(Setting.server("d") + " 301", Setting.server("d") + " 1", Setting.server("e") + " 1"), way(found));
    }

    /** Who was asked on the way, and the code of the answer. */
    static List<String> way(Jiexi.Done found) {
        JsonArray trace = found.json().getAsJsonArray("trace");
        return StreamSupport.stream(trace.spliterator(), false)
                .map(JsonElement::getAsJsonObject)
                .map(hop -> hop.get("server").getAsString() + " " + hop.get("responseCode").getAsInt())
                .toList();
    }

    private static AbstractResponse atR(String handle, Transport transport) throws Exception {
        Client client = Setting.at("r", transport);
        return client.resolver.sendRequestToSite(Client.request(handle, ALL), client.site);
    }
}
