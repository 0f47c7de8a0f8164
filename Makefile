# SPDX-License-Identifier: GPL-2.0-or-later
# Only calls into scripts/ and lab/; see README.md
#   ARCH=x86_64         make qemu, make demo: or aarch64
#   QEMU_SRC=DIR        a QEMU 10.0.x source of your own (it is copied)
#   BUILD_DIR=DIR       where every product goes; default: build
#   GROUP= ONLY=        make check: which groups, which programs
#   RUNS= SIZES=        make bench: how often (7), which sizes (2M 1G)
#   PATCH=NAME          make refresh: the patch that takes a file of none

ARCH ?= x86_64
export ARCH QEMU_SRC BUILD_DIR GROUP ONLY RUNS SIZES PATCH FORCE KEEP
run = @sh scripts/py

help:
	@echo 'make demo     one bad DRAM cell under a running guest, recovery off and on'
	@echo 'make check    every test'
	@echo 'make bench    three ways to rescue a huge page, measured on this machine'
	@echo 'make qemu     build/$(ARCH)/qemu-system-$(ARCH)'
	@echo 'make prepare  build/qemu: the QEMU source with our files and hooks'
	@echo 'make refresh  write edits of build/qemu back into patches/'
	@echo 'make series   build/series: mails for git am'
	@echo 'make clean    remove build/'

demo:
	$(run) build.py lab
	$(run) ../lab/demo.py --arch $(ARCH)

check:
	$(run) check.py

bench:
	$(run) bench.py

qemu:
	$(run) build.py

prepare:
	$(run) prepare.py

refresh:
	$(run) refresh.py

series:
	$(run) series.py

clean:
	$(run) tree.py

.PHONY: help demo check bench qemu prepare refresh series clean
