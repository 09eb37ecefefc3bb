# SPDX-License-Identifier: Apache-2.0
# Short words for what is typed most. Each calls meson or a script and adds nothing; `make` alone lists them.
SEED =
ROW = --list

help:
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

build/build.ninja:
	meson setup build -Dtests=enabled

build: build/build.ninja ## everything, into build/
	ninja -C build

unit: build/build.ninja ## one file of ours at a time: no root, no network, no model
	meson test -C build --suite unit

conformance: build/build.ninja ## the one suite that every transport passes
	meson test -C build --suite conformance --suite pairs

sim: build/build.ninja ## the protocol in a simulated network; SEED=7 lives one life and tells it
ifeq ($(SEED),)
	meson test -C build --suite sim
else
	ninja -C build tests/sim/sim_world
	build/tests/sim/sim_world $(SEED) 1
endif

asan: ## unit, conformance, sim, fault, corpus and kvserve under ASan and UBSan (downloads the model)
	tests/run.sh sanitize

tsan: ## what runs in several threads, under TSan
	tests/run.sh tsan

lint: ## arrows, circles, symbols, format, shape, comments, headers
	tests/run.sh lint

tidy: build/build.ninja ## clang-tidy on the files of the last commit and the working tree
	tests/lint/tidy.sh build

fmt: ## clang-format over every C file
	clang-format -i $$(git ls-files '*.c' '*.h' '*.cu')

bench: ## rows of perf/budgets.csv; ROW=kvserve_memory measures one, alone it lists them
	perf/run.sh $(ROW)

clean: ## every build folder
	rm -rf build build-*

.PHONY: help build unit conformance sim asan tsan lint tidy fmt bench clean
