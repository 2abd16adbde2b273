/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * One object, so that all families share the selection and the ring without pinning anything: when the agent dies,
 * everything dies with it. Programs load one by one: a kernel that refuses one keeps the others.
 */
#include "process.bpf.h"
#include "container.bpf.h"
#include "gnutls.bpf.h"
#include "go.bpf.h"
#include "rustls.bpf.h"
#include "stdio.bpf.h"

char LICENSE[] SEC("license") = "GPL";
