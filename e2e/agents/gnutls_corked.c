/*
 * One call to a model by GnuTLS, in a corked session: head and body are handed over one by one and sent together.
 *
 *     gnutls_corked PORT CA.PEM
 */
#include <arpa/inet.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static int fail(const char *what, int error)
{
    fprintf(stderr, "gnutls_corked: %s: %s\n", what, gnutls_strerror(error));
    return 1;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return fail("usage: gnutls_corked PORT CA.PEM", 0);

    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1])) };
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int descriptor = socket(AF_INET, SOCK_STREAM, 0);
    if (descriptor < 0 || connect(descriptor, (struct sockaddr *)&address, sizeof address) != 0)
        return fail("cannot connect", 0);

    gnutls_certificate_credentials_t credentials;
    gnutls_session_t session;
    gnutls_certificate_allocate_credentials(&credentials);
    int got = gnutls_certificate_set_x509_trust_file(credentials, argv[2], GNUTLS_X509_FMT_PEM);
    if (got <= 0)
        return fail("cannot load the certificate authority", got);
    gnutls_init(&session, GNUTLS_CLIENT);
    gnutls_set_default_priority(session);
    gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials);
    gnutls_server_name_set(session, GNUTLS_NAME_DNS, "localhost", strlen("localhost"));
    gnutls_session_set_verify_cert(session, "localhost", 0);
    gnutls_transport_set_int(session, descriptor);
    got = gnutls_handshake(session);
    if (got != GNUTLS_E_SUCCESS)
        return fail("no TLS", got);

    const char *body = "{\"model\":\"gpt-4o-mini\",\"messages\":[{\"role\":\"user\",\"content\":\"Corked\"}]}";
    char head[512];
    int length = snprintf(head, sizeof head,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:%s\r\nContent-Type: application/json\r\n"
        "Content-Length: %zu\r\nConnection: close\r\n\r\n",
        argv[1], strlen(body));
    gnutls_record_cork(session);
    if (gnutls_record_send(session, head, (size_t)length) != length
        || gnutls_record_send(session, body, strlen(body)) != (ssize_t)strlen(body))
        return fail("cannot write", 0);
    got = gnutls_record_uncork(session, GNUTLS_RECORD_WAIT);
    if (got < 0)
        return fail("cannot send", got);

    char response[4096];
    int first = 1, status = 0;
    for (;;) {
        got = (int)gnutls_record_recv(session, response, sizeof response - 1);
        /* Something of the protocol's own came, a ticket say. */
        if (got == GNUTLS_E_AGAIN || got == GNUTLS_E_INTERRUPTED)
            continue;
        if (got <= 0)
            break;
        response[got] = 0;
        if (first)
            status = strncmp(response, "HTTP/1.1 200 ", 13) == 0;
        first = 0;
    }
    gnutls_deinit(session);
    gnutls_certificate_free_credentials(credentials);
    return status ? 0 : fail("no good answer", got);
}
