package interop;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import interop.Client.Transport;
import java.util.List;
import net.handle.hdllib.AbstractMessage;
import net.handle.hdllib.AbstractResponse;
import net.handle.hdllib.HandleException;
import net.handle.hdllib.HandleValue;
import net.handle.hdllib.ResolutionRequest;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/**
 * Goal: a client that knows node A only finds what lives on node B. Method: each handle is absent from A,
 * so that an answer with B's values can only have come over the referral.
 */
@Of(Of.Peer.HANDLE_CLIENT)
class ReferralTest {
    private static final List<String> ALL = List.of();

    /** 0.NA/88.118.9 at A holds an HS_SITE naming B. */
    @ParameterizedTest
    @EnumSource
    @Covers(Operation.REFER)
    void siteOfAPrefix(Transport transport) throws Exception {
        follows(transport, "88.118.9/x");
    }

    /** 0.NA/88.118.10 at A holds an HS_SERV naming 88.118.8/service, whose HS_SITE names B. */
    @ParameterizedTest
    @EnumSource
    @Covers(Operation.REFER)
    void serviceHandle(Transport transport) throws Exception {
        follows(transport, "88.118.10/x");
    }

    /** 0.NA/88.118.7 is absent at A; its parent's HS_SITE.PREFIX sends the client to B (code 303). */
    @ParameterizedTest
    @EnumSource
    @Covers(Operation.REFER)
    void prefixReferral(Transport transport) throws Exception {
        follows(transport, "88.118.7/x");
    }

    /** 0.NA/88.300.7 at C is what `jiexi prefix add --site` made of it; C has no handle of it. */
    @ParameterizedTest
    @EnumSource
    @Covers(Operation.REFER)
    void delegatedByCommand(Transport transport) throws Exception {
        Client client = Setting.nodeC(transport);
        AbstractResponse atC =
                client.resolver.sendRequestToSite(Client.request("88.300.7/pump", ALL), client.site);
        assertEquals(AbstractMessage.RC_SERVER_NOT_RESP, atC.responseCode);
        HandleValue url = client.resolve("88.300.7/pump", List.of("URL")).get(0);
        assertEquals("https://d.example.cn/pump", url.getDataAsString());
    }

    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.REFER)
    void prefixReferralIsCode303(Transport transport) throws Exception {
        Client client = Setting.nodeA(transport);
        AbstractResponse response =
                client.resolver.sendRequestToSite(Client.request("0.NA/88.118.7", ALL), client.site);
        assertEquals(AbstractMessage.RC_PREFIX_REFERRAL, response.responseCode);

        ResolutionRequest stay = Client.request("0.NA/88.118.7", ALL);
        stay.doNotRefer = true;
        response = client.resolver.sendRequestToSite(stay, client.site);
        assertEquals(AbstractMessage.RC_HANDLE_NOT_FOUND, response.responseCode);
    }

    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.REFUSED)
    void unknownHandleBehindAReferral(Transport transport) throws Exception {
        Client client = Setting.nodeA(transport);
        HandleException refused = assertThrows(HandleException.class, () -> client.resolve("88.118.9/none", ALL));
        assertEquals(HandleException.HANDLE_DOES_NOT_EXIST, refused.getCode());
    }

    /** A prefix nobody here knows: the client finds no service, and does not hang. */
    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.REFUSED)
    void unknownPrefix(Transport transport) throws Exception {
        Client client = Setting.nodeA(transport);
        HandleException refused = assertThrows(HandleException.class, () -> client.resolve("10.9999/x", ALL));
        assertEquals(HandleException.SERVICE_NOT_FOUND, refused.getCode());
    }

    private static void follows(Transport transport, String handle) throws Exception {
        Client client = Setting.nodeA(transport);
        AbstractResponse atA =
                client.resolver.sendRequestToSite(Client.request(handle, ALL), client.site);
        assertEquals(AbstractMessage.RC_SERVER_NOT_RESP, atA.responseCode, "node A must not have " + handle);
        Compare.same(Setting.records("b").visible(handle), client.resolve(handle, ALL));
        // The same straight from B, so that a failure above points at the referral and not at B's data.
        Client direct = Setting.nodeB(transport);
        AbstractResponse atB =
                direct.resolver.sendRequestToSite(Client.request(handle, ALL), direct.site);
        assertEquals(AbstractMessage.RC_SUCCESS, atB.responseCode);
    }
}
