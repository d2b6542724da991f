package interop;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import interop.Client.Transport;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import net.handle.hdllib.AbstractMessage;
import net.handle.hdllib.AbstractResponse;
import net.handle.hdllib.GenericRequest;
import net.handle.hdllib.GetSiteInfoResponse;
import net.handle.hdllib.HandleException;
import net.handle.hdllib.HandleValue;
import net.handle.hdllib.Interface;
import net.handle.hdllib.ResolutionRequest;
import net.handle.hdllib.SiteInfo;
import net.handle.hdllib.Util;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/**
 * Goal: what CNRI's client reads from a node is what was put in. Method: each test asks node A over one
 * transport alone and compares with the imported file, or with literals where the file would hide a slip.
 */
@Of(Of.Peer.HANDLE_CLIENT)
class ResolveTest {
    private static final String PLAIN = "88.118.8/test1";
    private static final List<String> ALL = List.of();

    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.RESOLVE)
    void allPublicValues(Transport transport) throws Exception {
        List<HandleValue> found = Setting.nodeA(transport).resolve(PLAIN, ALL);
        Compare.same(Setting.records("a").visible(PLAIN), found);
        assertEquals(
                List.of("URL", "EMAIL", "10320/loc", "URL.MIRROR", "ABS_TTL", "HS_ADMIN"),
                found.stream().map(HandleValue::getTypeAsString).toList());
        assertEquals("https://example.cn/item/1", found.get(0).getDataAsString());
        assertEquals("rwr-", found.get(0).getPermissionString());
        assertEquals(86_400, found.get(0).getTTL());
        HandleValue absolute = found.get(4);
        assertEquals(HandleValue.TTL_TYPE_ABSOLUTE, absolute.getTTLType());
        assertEquals(1_900_000_000, absolute.getTTL());
        assertEquals(300, absolute.getReferences()[0].index);
    }

    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.RESOLVE)
    void byType(Transport transport) throws Exception {
        Client client = Setting.nodeA(transport);
        assertEquals(List.of(1), indexes(client.resolve(PLAIN, List.of("URL"))));
        assertEquals(List.of(1), indexes(client.resolve(PLAIN, List.of("url"))));
        assertEquals(List.of(1, 4), indexes(client.resolve(PLAIN, List.of("URL."))));
        assertEquals(List.of(2, 100), indexes(client.resolve(PLAIN, List.of("EMAIL", "HS_ADMIN"))));
    }

    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.RESOLVE)
    void byIndex(Transport transport) throws Exception {
        Client client = Setting.nodeA(transport);
        assertEquals(List.of(2, 4), indexes(client.resolve(PLAIN, ALL, 4, 2)));
        assertEquals(List.of(2), indexes(client.resolve(PLAIN, ALL, 2, 77)));
    }

    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.RESOLVE)
    void typeAndIndexAreAUnion(Transport transport) throws Exception {
        assertEquals(List.of(1, 2), indexes(Setting.nodeA(transport).resolve(PLAIN, List.of("EMAIL"), 1)));
    }

    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.RESOLVE)
    void caseOfTheHandleIsFoldedAndEchoed(Transport transport) throws Exception {
        List<HandleValue> found = Setting.nodeA(transport).resolve("88.118.8/TeSt1", ALL);
        Compare.same(Setting.records("a").visible(PLAIN), found);
    }

    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.RESOLVE)
    void unicodeHandle(Transport transport) throws Exception {
        List<HandleValue> found = Setting.nodeA(transport).resolve("88.118.8/工业标识", ALL);
        Compare.same(Setting.records("a").visible("88.118.8/工业标识"), found);
        assertEquals("https://example.cn/产品", found.get(0).getDataAsString());
    }

    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.RESOLVE)
    void alias(Transport transport) throws Exception {
        List<HandleValue> found = Setting.nodeA(transport).resolve("88.118.8/alias", List.of("HS_ALIAS"));
        assertEquals(PLAIN, found.get(0).getDataAsString());
    }

    /** 3,000 octets: seven datagrams over UDP. */
    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.RESOLVE)
    void largeRecord(Transport transport) throws Exception {
        List<HandleValue> found = Setting.nodeA(transport).resolve("88.118.8/big", ALL);
        Compare.same(Setting.records("a").visible("88.118.8/big"), found);
        assertEquals(3_000, found.get(0).getData().length);
    }

    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.RESOLVE)
    void threeHundredValues(Transport transport) throws Exception {
        List<HandleValue> found = Setting.nodeA(transport).resolve("88.118.8/many", ALL);
        Compare.same(Setting.records("a").visible("88.118.8/many"), found);
        assertEquals(IntStream.rangeClosed(1, 300).boxed().toList(), indexes(found));
    }

    /** 200,000 octets: over UDP the client's own buffer may lose pieces, then it must get through over TCP. */
    @ParameterizedTest
    @EnumSource(names = {"TCP", "UDP_THEN_TCP"})
    @Covers(Operation.RESOLVE)
    void hugeRecord(Transport transport) throws Exception {
        List<HandleValue> found = Setting.nodeA(transport).resolve("88.118.8/huge", ALL);
        Compare.same(Setting.records("a").visible("88.118.8/huge"), found);
        assertEquals(200_000, found.get(0).getData().length);
    }

    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.REFUSED)
    void unknownHandle(Transport transport) throws Exception {
        Client client = Setting.nodeA(transport);
        HandleException refused =
                assertThrows(HandleException.class, () -> client.resolve("88.118.8/no-such-handle", ALL));
        assertEquals(HandleException.HANDLE_DOES_NOT_EXIST, refused.getCode());
        HandleException byConvenience =
                assertThrows(HandleException.class, () -> client.resolver.resolveHandle("88.118.8/no-such-handle"));
        assertEquals(HandleException.HANDLE_DOES_NOT_EXIST, byConvenience.getCode());
    }

    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.REFUSED)
    void valuesNotFound(Transport transport) throws Exception {
        Client client = Setting.nodeA(transport);
        AbstractResponse response = client.send(Client.request(PLAIN, List.of("NO_SUCH_TYPE"), 77));
        assertEquals(AbstractMessage.RC_VALUES_NOT_FOUND, response.responseCode);
        assertEquals(HandleException.INVALID_VALUE, HandleException.ofResponse(response).getCode());
        // The client's convenience method turns this code, and no other, into an empty list.
        assertEquals(0, client.resolver.resolveHandle(PLAIN, new String[] {"NO_SUCH_TYPE"}, null).length);
    }

    /** A value that only administrators read is absent, as if it did not exist. */
    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.REFUSED)
    void restrictedValueIsHidden(Transport transport) throws Exception {
        AbstractResponse response = Setting.nodeA(transport).send(Client.request(PLAIN, ALL, 10));
        assertEquals(AbstractMessage.RC_VALUES_NOT_FOUND, response.responseCode);
    }

    /** Asked for without "public only", the same value needs authentication: the client sees the challenge. */
    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.REFUSED)
    void restrictedValueNeedsAuthentication(Transport transport) throws Exception {
        Client client = Setting.nodeA(transport);
        ResolutionRequest request = Client.request(PLAIN, ALL, 10);
        request.ignoreRestrictedValues = false;
        // Without an identity to answer with, the client raises this on a challenge and on nothing else.
        HandleException refused =
                assertThrows(
                        HandleException.class, () -> client.resolver.sendRequestToSite(request, client.site));
        assertEquals(HandleException.UNABLE_TO_AUTHENTICATE, refused.getCode());
    }

    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.REFUSED)
    void foreignPrefixIsRefused(Transport transport) throws Exception {
        Client client = Setting.nodeA(transport);
        AbstractResponse response =
                client.resolver.sendRequestToSite(Client.request("10.9999/1", ALL), client.site);
        assertEquals(AbstractMessage.RC_SERVER_NOT_RESP, response.responseCode);
    }

    /** The client checks the digest of its own request, and that the version is the one it asked for. */
    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.ANSWER)
    void requestDigest(Transport transport) throws Exception {
        ResolutionRequest request = Client.request(PLAIN, ALL);
        request.returnRequestDigest = true;
        AbstractResponse response = Setting.nodeA(transport).send(request);
        assertEquals(AbstractMessage.RC_SUCCESS, response.responseCode);
        assertNotNull(response.requestDigest);
        assertArrayEquals(Util.doSHA256Digest(request.getEncodedMessageBody()), response.requestDigest);
        assertEquals(2, response.majorProtocolVersion);
        assertEquals(11, response.minorProtocolVersion);
    }

    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.ANSWER)
    void authoritative(Transport transport) throws Exception {
        ResolutionRequest request = Client.request(PLAIN, ALL);
        request.authoritative = true;
        AbstractResponse response = Setting.nodeA(transport).send(request);
        assertEquals(AbstractMessage.RC_SUCCESS, response.responseCode);
        assertTrue(response.authoritative);
    }

    /** The node's own site record, with a key the client can read and TCP as its first interface. */
    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.ANSWER)
    void siteInformation(Transport transport) throws Exception {
        Client client = Setting.nodeA(transport);
        GenericRequest request =
                new GenericRequest(Util.encodeString("/"), AbstractMessage.OC_GET_SITE_INFO, null);
        AbstractResponse response = client.resolver.sendRequestToSite(request, client.site);
        SiteInfo site = assertInstanceOf(GetSiteInfoResponse.class, response).siteInfo;
        assertTrue(site.isPrimary);
        assertEquals(Interface.SP_HDL_TCP, site.servers[0].interfaces[0].protocol);
        assertEquals("RSA", site.servers[0].getPublicKey().getAlgorithm());
    }

    /** What the client has written down about a prefix goes before what the global service says. */
    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.RESOLVE)
    void localSite(Transport transport) throws Exception {
        Client knowsB = Setting.nodeB(transport);
        SiteInfo[] nodeA = {Setting.nodeA(transport).site};
        knowsB.resolver.getConfiguration().setLocalSites("0.NA/88.118.8", nodeA);
        Compare.same(Setting.records("a").visible(PLAIN), knowsB.resolve(PLAIN, ALL));
    }

    /** Eight threads, each with a request after the other; over TCP every request has its own connection. */
    @ParameterizedTest
    @EnumSource(names = {"UDP", "TCP"})
    @Covers(Operation.MANY_RESOLVED)
    void manyAtOnce(Transport transport) throws Exception {
        List<HandleValue> expected = Setting.records("a").visible(PLAIN);
        ExecutorService threads = Executors.newFixedThreadPool(8);
        try {
            List<Callable<Void>> work = Collections.nCopies(8, () -> {
                Client client = Setting.nodeA(transport);
                for (int i = 0; i < 50; i++) {
                    Compare.same(expected, client.resolve(PLAIN, ALL));
                }
                return null;
            });
            for (Future<Void> done : threads.invokeAll(work, 60, TimeUnit.SECONDS)) {
                done.get();
            }
        } finally {
            threads.shutdownNow();
        }
    }

    private static List<Integer> indexes(List<HandleValue> values) {
        return values.stream().map(HandleValue::getIndex).toList();
    }
}
