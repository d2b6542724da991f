package interop;

import interop.Client.Transport;
import java.io.DataInputStream;
import java.io.IOException;
import java.net.DatagramPacket;
import java.net.DatagramSocket;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.Arrays;
import net.handle.hdllib.AbstractMessage;
import net.handle.hdllib.AbstractRequest;
import net.handle.hdllib.Common;
import net.handle.hdllib.Encoder;
import net.handle.hdllib.HandleException;
import net.handle.hdllib.HandleValue;
import net.handle.hdllib.MessageEnvelope;
import net.handle.hdllib.ServiceReferralResponse;
import net.handle.hdllib.SiteInfo;
import net.handle.hdllib.Util;

/**
 * A server that refers everything to another service, with code 302. Neither CNRI's server nor jiexi ever answers so, but
 * clients must understand it: its answers are made by CNRI's own classes.
 */
final class Referrer implements AutoCloseable {
    private static final int ENVELOPE = Common.MESSAGE_ENVELOPE_SIZE;

    private final HandleValue site;
    private final DatagramSocket datagrams;
    private final ServerSocket connections;

    /** One that refers to this site. */
    Referrer(SiteInfo to) throws IOException {
        site = new HandleValue(1, Common.SITE_INFO_TYPE, Encoder.encodeSiteInfoRecord(to));
        InetAddress loopback = InetAddress.getByName("127.0.0.1");
        connections = new ServerSocket(0, 50, loopback);
        datagrams = new DatagramSocket(connections.getLocalPort(), loopback);
        start(this::answerDatagrams);
        start(this::answerConnections);
    }

    int port() {
        return connections.getLocalPort();
    }

    /** A client that knows this server only. */
    Client client(Transport transport) {
        return new Client("127.0.0.1", port(), transport);
    }

    @Override
    public void close() throws IOException {
        connections.close();
        datagrams.close();
    }

    private void answerDatagrams() throws IOException, HandleException {
        while (true) {
            DatagramPacket packet = new DatagramPacket(new byte[Common.MAX_UDP_PACKET_SIZE], Common.MAX_UDP_PACKET_SIZE);
            datagrams.receive(packet);
            byte[] answer = answer(Arrays.copyOf(packet.getData(), packet.getLength()));
            if (answer.length > Common.MAX_UDP_PACKET_SIZE) {
                throw new IllegalStateException("a site record without a key fits into a datagram");
            }
            datagrams.send(new DatagramPacket(answer, answer.length, packet.getSocketAddress()));
        }
    }

    private void answerConnections() throws IOException, HandleException {
        while (true) {
            try (Socket connection = connections.accept()) {
                DataInputStream in = new DataInputStream(connection.getInputStream());
                byte[] envelope = in.readNBytes(ENVELOPE);
                byte[] message = in.readNBytes(Encoder.readInt(envelope, ENVELOPE - 4));
                connection.getOutputStream().write(answer(Util.concat(envelope, message)));
            }
        }
    }

    private byte[] answer(byte[] asked) throws HandleException {
        MessageEnvelope envelope = new MessageEnvelope();
        Encoder.decodeEnvelope(asked, envelope);
        AbstractRequest request = (AbstractRequest) Encoder.decodeMessage(asked, ENVELOPE, envelope);
        byte[][] values = {Encoder.encodeHandleValue(site)};
        byte[] message =
                new ServiceReferralResponse(request, AbstractMessage.RC_SERVICE_REFERRAL, new byte[0], values)
                        .getEncodedMessage();
        envelope.protocolMajorVersion = Common.MAJOR_VERSION;
        envelope.protocolMinorVersion = Common.MINOR_VERSION;
        envelope.messageLength = message.length;
        byte[] head = new byte[ENVELOPE];
        Encoder.encodeEnvelope(envelope, head);
        return Util.concat(head, message);
    }

    /** What ends when its sockets are closed. */
    private interface Work {
        void run() throws IOException, HandleException;
    }

    private void start(Work work) {
        Thread thread =
                new Thread(
                        () -> {
                            try {
                                work.run();
                            } catch (IOException | HandleException e) {
                                if (!connections.isClosed()) {
                                    throw new IllegalStateException(e);
                                }
                            }
                        });
        thread.setDaemon(true);
        thread.start();
    }
}
