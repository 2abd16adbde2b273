/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Plaintext at GnuTLS. Reading, and leaving a call, is as in OpenSSL: the number of bytes is returned.
 *
 * A corked session takes bytes and says so; gnutls_record_uncork sends them by the same function once more, which is not
 * to be taken for more bytes.
 */
#include "openssl.bpf.h"

/* Threads within gnutls_record_uncork. Written at its entry, removed at its return; least recently used make room. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, u64);
	__type(value, u32);
} uncorking SEC(".maps");

/* int gnutls_record_uncork(gnutls_session_t, unsigned) */
SEC("uprobe")
int gnutls_uncork(struct pt_regs *regs)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct control *control = get_control();
	u32 here = 1;

	(void)regs;
	if (control && selected(control, pid_tgid >> 32))
		bpf_map_update_elem(&uncorking, &pid_tgid, &here, BPF_ANY);
	return 0;
}

SEC("uretprobe")
int gnutls_uncork_leave(struct pt_regs *regs)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();

	(void)regs;
	bpf_map_delete_elem(&uncorking, &pid_tgid);
	return 0;
}

/* ssize_t gnutls_record_send(gnutls_session_t, const void *, size_t) and gnutls_record_send2 */
SEC("uprobe")
int gnutls_write(struct pt_regs *regs)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	u32 *again = bpf_map_lookup_elem(&uncorking, &pid_tgid);

	/* Entered all the same, so that its return is paired: with nowhere to find a number of bytes, it moved none. */
	return enter(regs, DIRECTION_WRITE, again ? ~0ULL : 0, 0);
}

/* int gnutls_handshake(gnutls_session_t): called until it is through, and again by whoever renegotiates. */
SEC("uprobe")
int gnutls_handshake(struct pt_regs *regs)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct connection connection = { .generation = bpf_ktime_get_ns(), .from_start = 1 };
	struct control *control = get_control();
	struct connection_key key;

	if (!control || !selected(control, tgid))
		return 0;
	fill_connection_key(&key, ARG1(regs), tgid);
	bpf_map_update_elem(&connections, &key, &connection, BPF_NOEXIST);
	return 0;
}
