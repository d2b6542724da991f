package interop;

import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import net.handle.hdllib.Encoder;
import net.handle.hdllib.HandleException;
import net.handle.hdllib.HandleValue;
import net.handle.hdllib.Interface;
import net.handle.hdllib.SiteInfo;

/**
 * Writes the two nodes' records: node A gets the recorded fixture with every site pointed at a port that is
 * open in this run; node B gets what A refers to. Arguments: fixture, output directory, address and port
 * of A, address and port of B.
 */
final class Prepare {
    private static final int TIMESTAMP = 1_700_000_000;

    private Prepare() {}

    public static void main(String[] arguments) throws Exception {
        Records a = Records.read(Path.of(arguments[0]));
        Path out = Path.of(arguments[1]);
        Node nodeA = new Node(arguments[2], Integer.parseInt(arguments[3]));
        Node nodeB = new Node(arguments[4], Integer.parseInt(arguments[5]));

        for (String prefix : new String[] {"88.118.8", "88.118", "0.NA"}) {
            a.home(prefix);
            point(a, "0.NA/" + prefix, "HS_SITE", nodeA);
        }
        // The three ways from A to B: the prefix's own site, a service handle, and the parent's referral.
        point(a, "0.NA/88.118.9", "HS_SITE", nodeB);
        point(a, "88.118.8/service", "HS_SITE", nodeB);
        point(a, "0.NA/88.118", "HS_SITE.PREFIX", nodeB);
        a.write(out.resolve("a.ndjson"));

        Records b = new Records();
        SiteInfo template = Encoder.decodeSiteInfoRecord(a.get("0.NA/88.118.9").get(0).getData(), 0);
        for (String prefix : new String[] {"88.118.9", "88.118.10", "88.118.7"}) {
            b.home(prefix);
            b.put("0.NA/" + prefix, value(1, "HS_SITE", nodeB.site(template)));
            b.put(
                    prefix + "/x",
                    value(1, "URL", ("https://b.example.cn/" + prefix + "/x").getBytes(StandardCharsets.UTF_8)),
                    value(2, "DESC", ("节点乙 " + prefix).getBytes(StandardCharsets.UTF_8)));
        }
        b.write(out.resolve("b.ndjson"));
    }

    private record Node(String address, int port) {
        /** The site record of `template` with this node's address and port; first interface TCP. */
        byte[] site(SiteInfo template) throws HandleException {
            SiteInfo site = new SiteInfo(template);
            site.servers[0].ipAddress = Client.octets(address);
            site.servers[0].interfaces =
                    new Interface[] {
                        new Interface(Interface.ST_ADMIN_AND_QUERY, Interface.SP_HDL_TCP, port),
                        new Interface(Interface.ST_QUERY, Interface.SP_HDL_UDP, port),
                    };
            return Encoder.encodeSiteInfoRecord(site);
        }
    }

    private static void point(Records records, String handle, String type, Node node) throws HandleException {
        boolean found = false;
        for (HandleValue value : records.get(handle)) {
            if (value.getTypeAsString().equals(type)) {
                value.setData(node.site(Encoder.decodeSiteInfoRecord(value.getData(), 0)));
                found = true;
            }
        }
        if (!found) {
            throw new IllegalArgumentException(handle + " has no " + type + " in the fixture");
        }
    }

    private static HandleValue value(int index, String type, byte[] data) {
        HandleValue value = new HandleValue(index, type, data);
        value.setTimestamp(TIMESTAMP);
        return value;
    }
}
