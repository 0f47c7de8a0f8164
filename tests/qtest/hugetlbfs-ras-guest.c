/*
 * Tests of the recovery from memory failures: a guest that logs machine checks
 *
 * Real mode code at F000:0000.  It waits for GUEST_START, enables machine
 * checks and waits for them.  The handler (also: int 18, for banks that raise
 * no exception) appends what it reads to the log of its CPU and, if told so,
 * acknowledges.  CPU 0 has its data at 0x2000, CPU 1 at 0x3000.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/memfd.h"
#include "hugetlbfs-ras-vm.h"

#define BIOS_SIZE (64 * KiB)

/* GNU as, in 16-bit mode */
static const uint8_t bios[] = {
    0xfa,                                      /* cli */
    0x31, 0xc0,                                /* xorw %ax, %ax */
    0x8e, 0xc0,                                /* movw %ax, %es */
    0xbb, 0x00, 0x02,                          /* movw $0x0200, %bx */
    0x66, 0xb9, 0x1b, 0x00, 0x00, 0x00,        /* movl $0x1b, %ecx */
    0x0f, 0x32,                                /* rdmsr */
    0xf6, 0xc4, 0x01,                          /* testb $1, %ah */
    0x75, 0x02,                                /* jnz base */
    0xb7, 0x03,                                /* movb $0x03, %bh */
    0x8e, 0xdb,                                /* base: movw %bx, %ds */
    0x8e, 0xd3,                                /* movw %bx, %ss */
    0xbc, 0x00, 0x0f,                          /* movw $0x0f00, %sp */
    0x26, 0xc7, 0x06, 0x48, 0x00, 0x7d, 0x00,  /* movw $handler, %es:0x48 */
    0x26, 0x8c, 0x0e, 0x4a, 0x00,              /* movw %cs, %es:0x4a */
    0xf6, 0xc4, 0x01,                          /* testb $1, %ah */
    0x74, 0x26,                                /* jz wait */
    0x26, 0xf6, 0x06, 0x00, 0x10, 0x04,        /* testb $4, %es:0x1000 */
    0x74, 0x1e,                                /* jz wait */
    0x80, 0xcc, 0x0c,                          /* orb $0xc, %ah */
    0x0f, 0x30,                                /* wrmsr */
    0x66, 0xb9, 0x30, 0x08, 0x00, 0x00,        /* movl $0x830, %ecx */
    0x66, 0x31, 0xd2,                          /* xorl %edx, %edx */
    0x66, 0xb8, 0x00, 0x45, 0x0c, 0x00,        /* movl $0x000c4500, %eax */
    0x0f, 0x30,                                /* wrmsr */
    0x66, 0xb8, 0xf0, 0x46, 0x0c, 0x00,        /* movl $0x000c46f0, %eax */
    0x0f, 0x30,                                /* wrmsr */
    0xf3, 0x90,                                /* wait: pause */
    0x26, 0xf6, 0x06, 0x00, 0x10, 0x01,        /* testb $1, %es:0x1000 */
    0x74, 0xf6,                                /* jz wait */
    0x0f, 0x20, 0xe0,                          /* movl %cr4, %eax */
    0x0c, 0x40,                                /* orb $0x40, %al */
    0x0f, 0x22, 0xe0,                          /* movl %eax, %cr4 */
    0xc6, 0x06, 0x04, 0x00, 0x01,              /* movb $1, %ds:4 */
    0xf3, 0x90,                                /* poll: pause */
    0xf6, 0x06, 0x08, 0x00, 0xff,              /* testb $0xff, %ds:8 */
    0x74, 0xf7,                                /* jz poll */
    0xfe, 0x0e, 0x08, 0x00,                    /* decb %ds:8 */
    0xcd, 0x12,                                /* int $18 */
    0xeb, 0xef,                                /* jmp poll */
    0x66, 0x60,                                /* handler: pushal */
    0x8b, 0x3e, 0x00, 0x00,                    /* movw %ds:0, %di */
    0xc1, 0xe7, 0x06,                          /* shlw $6, %di */
    0x83, 0xc7, 0x40,                          /* addw $0x40, %di */
    0xbe, 0xcb, 0x00,                          /* movw $msrs, %si */
    0x2e, 0x66, 0x0f, 0xb7, 0x0c,              /* r: movzwl %cs:(%si),%ecx */
    0x67, 0xe3, 0x11,                          /* jecxz count */
    0x0f, 0x32,                                /* rdmsr */
    0x66, 0x89, 0x05,                          /* movl %eax, (%di) */
    0x66, 0x89, 0x55, 0x04,                    /* movl %edx, 4(%di) */
    0x83, 0xc7, 0x08,                          /* addw $8, %di */
    0x83, 0xc6, 0x02,                          /* addw $2, %si */
    0xeb, 0xe7,                                /* jmp r */
    0xff, 0x06, 0x00, 0x00,                    /* count: incw %ds:0 */
    0xf6, 0x06, 0x0c, 0x00, 0xff,              /* testb $0xff, %ds:12 */
    0x74, 0x18,                                /* jz out */
    0xbe, 0xcb, 0x00,                          /* movw $msrs, %si */
    0x66, 0x31, 0xc0,                          /* xorl %eax, %eax */
    0x66, 0x31, 0xd2,                          /* xorl %edx, %edx */
    0x2e, 0x66, 0x0f, 0xb7, 0x0c,              /* c: movzwl %cs:(%si),%ecx */
    0x67, 0xe3, 0x07,                          /* jecxz out */
    0x0f, 0x30,                                /* wrmsr */
    0x83, 0xc6, 0x02,                          /* addw $2, %si */
    0xeb, 0xf1,                                /* jmp c */
    0x66, 0x61,                                /* out: popal */
    0xcf,                                      /* iretw */
    /* msrs: .word 0x425, 0x426, 0x427, 0x405, 0x17a, 0 */
    0x25, 0x04, 0x26, 0x04, 0x27, 0x04, 0x05, 0x04, 0x7a, 0x01, 0x00, 0x00,
};

/* ljmp $0xf000, $0 at F000:FFF0 */
static const uint8_t reset_vector[] = { 0xea, 0x00, 0x00, 0x00, 0xf0 };

char *ras_guest_bios(void)
{
    static int fd = -1;

    if (fd < 0) {
        fd = memfd_create("bios", MFD_CLOEXEC);
        g_assert(fd >= 0 && ftruncate(fd, BIOS_SIZE) == 0);
        g_assert(pwrite(fd, bios, sizeof(bios), 0) == sizeof(bios));
        g_assert(pwrite(fd, reset_vector, sizeof(reset_vector),
                        BIOS_SIZE - 16) == sizeof(reset_vector));
    }
    return g_strdup_printf("/proc/%d/fd/%d", (int)getpid(), fd);
}
