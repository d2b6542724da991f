package interop;

import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.util.List;
import net.handle.hdllib.AbstractMessage;
import net.handle.hdllib.AbstractRequest;
import net.handle.hdllib.AbstractResponse;
import net.handle.hdllib.HandleException;
import net.handle.hdllib.HandleResolver;
import net.handle.hdllib.HandleValue;
import net.handle.hdllib.Interface;
import net.handle.hdllib.ResolutionRequest;
import net.handle.hdllib.ResolutionResponse;
import net.handle.hdllib.ServerInfo;
import net.handle.hdllib.SimpleConfiguration;
import net.handle.hdllib.SiteInfo;
import net.handle.hdllib.Util;

/**
 * CNRI's resolver knowing one node only, as its global service: everything else it must learn from there.
 * No cache, no files of the user.
 */
final class Client {
    /** Which protocols the client may use, in its order of preference. */
    enum Transport {
        UDP(Interface.SP_HDL_UDP),
        TCP(Interface.SP_HDL_TCP),
        UDP_THEN_TCP(Interface.SP_HDL_UDP, Interface.SP_HDL_TCP);

        private final int[] protocols;

        Transport(int... protocols) {
            this.protocols = protocols;
        }
    }

    final SiteInfo site;
    final HandleResolver resolver = new HandleResolver();

    Client(String address, int port, Transport transport) {
        ServerInfo server = new ServerInfo();
        server.serverId = 1;
        server.ipAddress = octets(address);
        server.publicKey = new byte[0];
        server.interfaces =
                new Interface[] {
                    new Interface(Interface.ST_ADMIN_AND_QUERY, Interface.SP_HDL_TCP, port),
                    new Interface(Interface.ST_QUERY, Interface.SP_HDL_UDP, port),
                };
        site = new SiteInfo();
        site.majorProtocolVersion = 2;
        site.minorProtocolVersion = 11;
        site.serialNumber = 1;
        site.isPrimary = true;
        site.servers = new ServerInfo[] {server};

        SimpleConfiguration configuration = new Pinned();
        configuration.setGlobalSites(new SiteInfo[] {site});
        resolver.setConfiguration(configuration);
        resolver.setCache(null);
        resolver.setCertifiedCache(null);
        resolver.setSessionTracker(null);
        resolver.setPreferredProtocols(transport.protocols);
        resolver.setTcpTimeout(10_000);
    }

    /** The reference configuration without its habit of refreshing the root's keys and sites by itself. */
    private static final class Pinned extends SimpleConfiguration {
        @Override
        public boolean isAutoUpdateRootInfo() {
            return false;
        }
    }

    /** The values of a handle; whatever is not a plain success becomes the client's own exception. */
    List<HandleValue> resolve(String handle, List<String> types, int... indexes) throws HandleException {
        AbstractResponse response = send(request(handle, types, indexes));
        if (response.responseCode != AbstractMessage.RC_SUCCESS) {
            throw HandleException.ofResponse(response);
        }
        ResolutionResponse resolution = (ResolutionResponse) response;
        if (!Util.decodeString(resolution.handle).equals(handle)) {
            throw new AssertionError("asked for " + handle + ", answered " + Util.decodeString(resolution.handle));
        }
        return List.of(resolution.getHandleValues());
    }

    AbstractResponse send(AbstractRequest request) throws HandleException {
        return resolver.processRequest(request);
    }

    /** Sends a request for its effect; whatever is not a plain success becomes the client's own exception. */
    void change(AbstractRequest request) throws HandleException {
        AbstractResponse response = send(request);
        if (response.responseCode != AbstractMessage.RC_SUCCESS) {
            throw HandleException.ofResponse(response);
        }
    }

    /** The same client over this transport. */
    Client on(Transport transport) {
        resolver.setPreferredProtocols(transport.protocols);
        return this;
    }

    /** The same client with sessions for administration; the default of CNRI's client is a plain one. */
    Client with(Session session) {
        resolver.setSessionTracker(session.tracker());
        return this;
    }

    static ResolutionRequest request(String handle, List<String> types, int... indexes) {
        byte[][] wanted = types.stream().map(Util::encodeString).toArray(byte[][]::new);
        return new ResolutionRequest(Util.encodeString(handle), wanted, indexes, null);
    }

    /** The 16 octets a site record has for an address. */
    static byte[] octets(String address) {
        try {
            return Util.fill16(InetAddress.getByName(address).getAddress());
        } catch (UnknownHostException e) {
            throw new UncheckedIOException(e);
        }
    }
}
