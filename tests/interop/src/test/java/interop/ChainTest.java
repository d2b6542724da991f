package interop;

import static org.junit.jupiter.api.Assertions.assertEquals;

import interop.Client.Transport;
import java.util.List;
import net.handle.hdllib.AbstractMessage;
import net.handle.hdllib.AbstractResponse;
import net.handle.hdllib.HandleValue;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Goal: referrals are followed from node to node to the one that knows. Method: the first node is asked; what only the last
 * one has must come back, and the codes on the way are looked at.
 */
class ChainTest {
    private static final List<String> ALL = List.of();
    /** At home at R; C has delegated 88.300.7 to D, and D has delegated 88.300.7.2 to R. */
    private static final String GATE = "88.300.7.2.1/gate";
    private static final String PREFIX = "0.NA/88.300.7.2.1";

    /** C refers the prefix to D and D refers it to R, each with code 303, since the record of it is R's. */
    @ParameterizedTest
    @EnumSource
    @Of(Of.Peer.HANDLE_CLIENT)
    @Covers(Operation.CHAIN)
    void prefixReferrals(Transport transport) throws Exception {
        for (String node : List.of("c", "d")) {
            Client asked = Setting.at(node, transport);
            AbstractResponse response = asked.resolver.sendRequestToSite(Client.request(PREFIX, ALL), asked.site);
            assertEquals(AbstractMessage.RC_PREFIX_REFERRAL, response.responseCode, node);
        }
        HandleValue url = Setting.at("c", transport).resolve(GATE, List.of("URL")).get(0);
        assertEquals("https://r.example.cn/gate", url.getDataAsString());
    }

    @ParameterizedTest
    @ValueSource(strings = {"--udp", "--tcp"})
    @Of(Of.Peer.JIEXI)
    @Covers(Operation.CHAIN)
    void jiexiFollowsPrefixReferrals(String transport) throws Exception {
        Jiexi.Done found = trace(GATE, Setting.server("c"), transport);
        assertEquals("https://r.example.cn/gate", found.values().get(0).getDataAsString());
        assertEquals(
                List.of(
                        Setting.server("c") + " 301",
                        Setting.server("c") + " 303",
                        Setting.server("d") + " 303",
                        Setting.server("r") + " 1",
                        Setting.server("r") + " 1"),
                RecursionTest.way(found));
    }

    /** C refers to D with code 303; D's record of the prefix names the CNRI server. */
    @ParameterizedTest
    @EnumSource
    @Of(Of.Peer.HANDLE_CLIENT)
    @Covers(Operation.CHAIN)
    void toTheCnriServer(Transport transport) throws Exception {
        List<HandleValue> found = Setting.at("c", transport).resolve("88.300.7.1/VALVE", ALL);
        Compare.same(Setting.records("e").visible("88.300.7.1/valve"), found);
    }

    @ParameterizedTest
    @ValueSource(strings = {"--udp", "--tcp"})
    @Of(Of.Peer.JIEXI)
    @Covers(Operation.CHAIN)
    void jiexiFollowsToTheCnriServer(String transport) throws Exception {
        Jiexi.Done found = trace("88.300.7.1/VALVE", Setting.server("c"), transport);
        Compare.same(Setting.records("e").visible("88.300.7.1/valve"), found.values());
        assertEquals(
                List.of(
                        Setting.server("c") + " 301",
                        Setting.server("c") + " 303",
                        Setting.server("d") + " 1",
                        Setting.server("e") + " 1"),
                RecursionTest.way(found));
    }

    /** Two services refer to the next with code 302, the second one to A, which refers the prefix to B. */
    @ParameterizedTest
    @EnumSource
    @Of(Of.Peer.HANDLE_CLIENT)
    @Covers(Operation.CHAIN)
    void serviceReferrals(Transport transport) throws Exception {
        try (Referrer second = new Referrer(Setting.nodeA(transport).site);
                Referrer first = new Referrer(second.client(transport).site)) {
            List<HandleValue> found = first.client(transport).resolve("88.118.7/x", ALL);
            Compare.same(Setting.records("b").visible("88.118.7/x"), found);
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"--udp", "--tcp"})
    @Of(Of.Peer.JIEXI)
    @Covers(Operation.CHAIN)
    void jiexiFollowsServiceReferrals(String transport) throws Exception {
        try (Referrer second = new Referrer(Setting.nodeA(Transport.TCP).site);
                Referrer first = new Referrer(second.client(Transport.TCP).site)) {
            Jiexi.Done found = trace("88.118.7/x", "127.0.0.1:" + first.port(), transport);
            Compare.same(Setting.records("b").visible("88.118.7/x"), found.values());
            assertEquals(
                    List.of(
                            "127.0.0.1:" + first.port() + " 302",
                            "127.0.0.1:" + second.port() + " 302",
                            Setting.server("a") + " 301",
                            Setting.server("a") + " 303",
                            Setting.server("b") + " 1",
                            Setting.server("b") + " 1"),
                    RecursionTest.way(found));
        }
    }

    private static Jiexi.Done trace(String handle, String server, String transport) throws Exception {
        return Jiexi.run("resolve", handle, "--server", server, transport, "--trace", "-o", "json").with(0);
    }
}
