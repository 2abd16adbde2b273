/*
 * A model call whose request travels as TLS 1.3 early data, before the handshake is done; both ends are here, with
 * memory between them.
 *
 *     early_data
 */
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char REQUEST[] = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
			      "Content-Length: 74\r\n\r\n"
			      "{\"model\":\"gpt-early\",\"messages\":[{\"role\":\"user\",\"content\":\"Are you up?\"}]}";
static const char ANSWER[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 192\r\n\r\n"
			     "{\"id\":\"chatcmpl-early\",\"object\":\"chat.completion\",\"model\":\"gpt-early\",\"choices\":[{\"index\":0,"
			     "\"finish_reason\":\"stop\",\"message\":{\"role\":\"assistant\",\"content\":\"Yes\"}}],\"usage\":"
			     "{\"prompt_tokens\":3}}";

static void fail(const char *what)
{
	fprintf(stderr, "early_data: %s\n", what);
	ERR_print_errors_fp(stderr);
	exit(1);
}

/* A session that both sides know from before, and that allows early data. */
static SSL_SESSION *known_session(SSL *ssl)
{
	static const unsigned char cipher[] = { 0x13, 0x01 }; /* TLS_AES_128_GCM_SHA256 */
	static const unsigned char key[32] = "no secret: both ends are here..";
	SSL_SESSION *session = SSL_SESSION_new();

	if (!session || !SSL_SESSION_set1_master_key(session, key, sizeof key)
	    || !SSL_SESSION_set_cipher(session, SSL_CIPHER_find(ssl, cipher))
	    || !SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION)
	    || !SSL_SESSION_set_max_early_data(session, 4096))
		fail("no session");
	return session;
}

static int use_session(SSL *ssl, const EVP_MD *digest, const unsigned char **id, size_t *size, SSL_SESSION **session)
{
	(void)digest;
	*id = (const unsigned char *)"early", *size = 5;
	*session = known_session(ssl);
	return 1;
}

static int find_session(SSL *ssl, const unsigned char *id, size_t size, SSL_SESSION **session)
{
	(void)id, (void)size;
	*session = known_session(ssl);
	return 1;
}

int main(void)
{
	SSL_CTX *near = SSL_CTX_new(TLS_client_method()), *far = SSL_CTX_new(TLS_server_method());
	BIO *up = BIO_new(BIO_s_mem()), *down = BIO_new(BIO_s_mem());
	char request[4096], answer[4096];
	size_t moved = 0, early = 0;

	if (!near || !far || !up || !down || !SSL_CTX_set_max_early_data(far, 4096))
		fail("no TLS");
	/* The session's cipher: early data asks for the same one. */
	if (!SSL_CTX_set_ciphersuites(near, "TLS_AES_128_GCM_SHA256"))
		fail("no cipher");
	SSL_CTX_set_options(far, SSL_OP_NO_ANTI_REPLAY);
	SSL_CTX_set_psk_use_session_callback(near, use_session);
	SSL_CTX_set_psk_find_session_callback(far, find_session);
	SSL *client = SSL_new(near), *server = SSL_new(far);
	if (!client || !server || !BIO_up_ref(up) || !BIO_up_ref(down))
		fail("no connection");
	SSL_set_bio(client, down, up);
	SSL_set_bio(server, up, down);
	SSL_set_connect_state(client), SSL_set_accept_state(server);

	if (SSL_write_early_data(client, REQUEST, sizeof REQUEST - 1, &moved) != 1 || moved != sizeof REQUEST - 1)
		fail("cannot write early data");
	for (int result = SSL_READ_EARLY_DATA_SUCCESS; result != SSL_READ_EARLY_DATA_FINISH;) {
		result = SSL_read_early_data(server, request + early, sizeof request - early, &moved);
		if (result == SSL_READ_EARLY_DATA_ERROR) {
			/* The rest of the client's side of the handshake is not there yet. */
			if (SSL_get_error(server, 0) != SSL_ERROR_WANT_READ)
				fail("cannot read early data");
			SSL_do_handshake(client);
			moved = 0;
		}
		early += moved;
	}
	if (SSL_get_early_data_status(client) != SSL_EARLY_DATA_ACCEPTED || early != sizeof REQUEST - 1
	    || memcmp(request, REQUEST, early) != 0)
		fail("the early data was not taken");
	for (int i = 0; i < 10 && (SSL_do_handshake(client) != 1) | (SSL_do_handshake(server) != 1); i++)
		;
	if (SSL_write_ex(server, ANSWER, sizeof ANSWER - 1, &moved) != 1
	    || SSL_read_ex(client, answer, sizeof answer, &moved) != 1 || moved != sizeof ANSWER - 1)
		fail("no answer");
	SSL_free(client), SSL_free(server);
	return 0;
}
