/*
 * One call to a model, by OpenSSL and nothing else: connect, ask, read until the end, exit at once.
 *
 *     tls_once PORT CA.PEM [CASE]
 *
 * Whoever traces it has to be there before it starts: it is gone some milliseconds later. Nothing is freed on
 * purpose: many programs end like this.
 */
#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static int fail(const char *what)
{
    fprintf(stderr, "tls_once: %s\n", what);
    ERR_print_errors_fp(stderr);
    return 1;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return fail("usage: tls_once PORT CA.PEM [CASE]");

    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1])) };
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int descriptor = socket(AF_INET, SOCK_STREAM, 0);
    if (descriptor < 0 || connect(descriptor, (struct sockaddr *)&address, sizeof address) != 0)
        return fail("cannot connect");

    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (!context || SSL_CTX_load_verify_locations(context, argv[2], NULL) != 1)
        return fail("cannot load the certificate authority");
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    SSL *session = SSL_new(context);
    if (!session || SSL_set_tlsext_host_name(session, "localhost") != 1 || SSL_set1_host(session, "localhost") != 1
        || SSL_set_fd(session, descriptor) != 1 || SSL_connect(session) != 1)
        return fail("no TLS");

    const char *body = "{\"model\":\"gpt-4o-mini\",\"messages\":[{\"role\":\"user\",\"content\":\"One call\"}]}";
    char request[1024];
    int length = snprintf(request, sizeof request,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:%s\r\nContent-Type: application/json\r\n"
        "Authorization: Bearer sk-test-0123456789\r\nx-mock-case: %s\r\nContent-Length: %zu\r\n"
        "Connection: close\r\n\r\n%s",
        argv[1], argc > 3 ? argv[3] : "tls_once", strlen(body), body);
    if (length < 0 || (size_t)length >= sizeof request || SSL_write(session, request, length) != length)
        return fail("cannot write");

    char response[4096];
    int got, first = 1, status = 0;
    while ((got = SSL_read(session, response, sizeof response - 1)) > 0) {
        response[got] = 0;
        if (first)
            status = strncmp(response, "HTTP/1.1 200 ", 13) == 0;
        first = 0;
    }
    return status ? 0 : fail("no good answer");
}
