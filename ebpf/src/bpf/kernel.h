/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The few kernel types that the programs read, by hand: CO-RE finds each field's real place on the machine that loads
 * them, so only names count here. Nothing comes from one machine's vmlinux.h.
 * Only structures whose names are unique in kernel BTF may stand here (aya picks the first of several).
 */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __s32 s32;
typedef __u64 u64;
typedef __s64 s64;

#define CORE __attribute__((preserve_access_index))

struct kernfs_node {
	u64 id; /* inode number and generation in one since 5.5 */
} CORE;

struct cgroup;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
} CORE;

struct cgroup_root;

struct cgroup {
	struct cgroup_subsys_state self;
	struct kernfs_node *kn;
	struct cgroup_root *root;
} CORE;

/* The kernel's own numbers are found at load: they depend on its configuration. */
enum cgroup_subsys_id {
	cpu_cgrp_id = 1,
	memory_cgrp_id = 4,
	pids_cgrp_id = 11,
};

struct css_set {
	struct cgroup_subsys_state *subsys[1]; /* as many as the kernel has controllers */
	struct cgroup *dfl_cgrp;
} CORE;

typedef struct {
	int counter;
} atomic_t;

typedef struct refcount_struct {
	atomic_t refs;
} refcount_t;

struct signal_struct {
	atomic_t live;
	int group_exit_code;
} CORE;

struct mm_struct {
	unsigned long arg_start, arg_end; /* what /proc/PID/cmdline shows */
} CORE;

struct socket___kernel;

struct inode {
	u16 i_mode;
	unsigned long i_ino;
} CORE;

struct file {
	struct inode *f_inode;
	void *private_data; /* of a socket's: the socket */
} CORE;

struct kiocb {
	struct file *ki_filp;
} CORE;

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
} CORE;

struct files_struct {
	struct fdtable *fdt;
} CORE;

struct task_struct {
	int pid;
	int tgid;
	int exit_code;
	u64 start_boottime; /* since 5.5 */
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	struct signal_struct *signal;
	struct mm_struct *mm;
	struct files_struct *files;
	struct css_set *cgroups;
} CORE;

struct linux_binprm {
	const char *interp; /* the program that runs: what exec was given, or a script's interpreter */
} CORE;

struct iovec {
	u64 iov_base; /* the layout is ABI (uio.h) */
	u64 iov_len;
};

enum iter_type {
	ITER_IOVEC,
	ITER_UBUF, /* since 6.0 */
};

struct iov_iter {
	u8 iter_type; /* since 5.14 */
	u64 iov_offset;
	u64 count;
	unsigned long nr_segs;
	const struct iovec *__iov; /* since 6.4 */
	void *ubuf;
} CORE;

struct iov_iter___before_6_4 {
	const struct iovec *iov;
} CORE;

struct iov_iter___before_5_14 {
	u32 type; /* and the direction, in the lowest bit */
} CORE;

struct msghdr {
	struct iov_iter msg_iter;
	u32 msg_flags;
} CORE;

struct sock_common {
	u16 skc_family;
	unsigned char skc_state;
} CORE;

struct sock {
	struct sock_common __sk_common;
	struct socket___kernel *sk_socket;
	refcount_t sk_wmem_alloc;
	u16 sk_type;
	int sk_wmem_queued;
	int sk_sndbuf;
	int sk_err;
	u8 sk_shutdown;
	u16 sk_protocol;
} CORE;

struct tcp_sock {
	u32 write_seq;	/* of the next byte that the process writes */
	u32 copied_seq;	/* of the next byte that it reads */
	u64 bytes_sent;	/* since 4.19; without SYN and FIN */
} CORE;

struct socket___kernel {
	struct sock *sk;
} CORE;

struct socket_alloc {
	struct socket___kernel socket;
	struct inode vfs_inode;
} CORE;

struct sockaddr_un {
	u16 sun_family; /* the layout is ABI (un.h) */
	char sun_path[108];
} CORE;

struct unix_address {
	int len; /* of the name, with its family */
	struct sockaddr_un name[1]; /* as long as `len` says */
} CORE;

struct unix_sock {
	struct unix_address *addr; /* that of a connection's server end is its listener's */
	struct sock *peer;
} CORE;

/* What a probe sees of the registers; the layout is ABI (asm/ptrace.h). */
#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
#define ARG1(regs) ((regs)->di)
#define ARG2(regs) ((regs)->si)
#define ARG3(regs) ((regs)->dx)
#define ARG4(regs) ((regs)->cx)
#define ARG5(regs) ((regs)->r8)
#define ARG6(regs) ((regs)->r9)
#define RESULT(regs) ((regs)->ax)
#define STACK(regs) ((regs)->sp)
/* A call pushes the return address; after the return it is gone. */
#define RETURN_ADDRESS_SIZE 8
/* In a system call's registers. */
#define SYSCALL(regs) ((regs)->orig_ax)
#define SYSCALL_ARG1(regs) ((regs)->di)
#define SYSCALL_ARG2(regs) ((regs)->si)
#define SYSCALL_ARG3(regs) ((regs)->dx)
#define SYSCALL_ARG4(regs) ((regs)->r10)
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs {
	unsigned long regs[31], sp, pc, pstate;
	unsigned long orig_x0; /* what a call was given, when its result stands in regs[0] */
};
#define ARG1(r) ((r)->regs[0])
#define ARG2(r) ((r)->regs[1])
#define ARG3(r) ((r)->regs[2])
#define ARG4(r) ((r)->regs[3])
#define ARG5(r) ((r)->regs[4])
#define ARG6(r) ((r)->regs[5])
#define RESULT(r) ((r)->regs[0])
#define STACK(r) ((r)->sp)
#define RETURN_ADDRESS_SIZE 0
#define SYSCALL(r) ((r)->regs[8])
#define SYSCALL_ARG1(r) ((r)->orig_x0)
#define SYSCALL_ARG2(r) ((r)->regs[1])
#define SYSCALL_ARG3(r) ((r)->regs[2])
#define SYSCALL_ARG4(r) ((r)->regs[3])
#else
#error "no register layout for this architecture"
#endif
