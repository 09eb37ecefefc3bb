#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Many senders and many receivers, a process and a UDP port each, all pairs at once, while nodes join, leave, restart
and are killed (kill -9) at random.

    mesh.py PROGRAM [--senders 8] [--receivers 8] [--transfers 2000] [--open 48] [--faults 60] [--seed 1]
            [--port 27500] [--dead-ms 5000] [--control]

PROGRAM is build/tests/mesh/mesh_node. What must hold, and what this script looks for:
  - a transfer whose two nodes live from its begin to its end is right: both ends say 0 and the bytes are the sender's
  - any other ends exactly once at each node that lives, well or with a sentence
  - no node hears of the loss of another one that wasn't touched
  - in the end every node has all blocks, all landing and staging slots, and as many descriptors as at its begin
Prints TAP; the last line is a row for a table. --control: node 0 sends wrong bytes, and a node is killed that counts as
untouched; the script must find both."""
import argparse
import os
import random
import selectors
import signal
import subprocess
import sys
import time

TOKENS = 400       # of the longest transfer
NODE_OPEN = 8      # transfers of one node at once: its pool has room for so many of the longest
QUIET = 40         # seconds in which nothing is heard from anybody: then it hangs
SLOTS, STAGES = 64, 64
HUSH = object()


class Node:
    def __init__(self, mesh, at):
        self.mesh, self.at, self.life, self.proc = mesh, at, 0, None
        self.up, self.open, self.buffer = {}, set(), b""
        self.ready = self.leaving = False
        self.back_at = 0.0
        self.used, self.fds, self.closed = None, 0, False

    def start(self):
        m = self.mesh
        self.life += 1
        self.up, self.open, self.buffer, self.ready, self.leaving, self.closed = {}, set(), b"", False, False, False
        self.proc = subprocess.Popen([m.args.program, str(self.at), str(self.life), str(m.args.port + self.at), str(m.args.dead_ms)] + (["lie"] if m.args.control and self.at == 0 else []), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        os.set_blocking(self.proc.stdout.fileno(), False)
        m.selector.register(self.proc.stdout, selectors.EVENT_READ, self)
        for other in m.nodes:
            if m.dials(self.at, other.at):
                self.say("peer %d %d" % (other.at, m.args.port + other.at))

    def say(self, line):
        """Tells the process; one that has died by itself, as the control's does, isn't told."""
        if self.proc is None:
            return
        try:
            self.proc.stdin.write(line.encode() + b"\n")
            self.proc.stdin.flush()
        except BrokenPipeError:
            pass  # its end is seen on its stdout

    def read(self):
        chunk = self.proc.stdout.read()
        if chunk == b"":
            self.ended()
            return
        *lines, self.buffer = (self.buffer + (chunk or b"")).split(b"\n")
        for line in lines:
            self.mesh.heard(self, line.decode(errors="replace"))

    def ended(self):
        """Its stdout is closed: it was killed, has left, or has died by itself."""
        m = self.mesh
        m.selector.unregister(self.proc.stdout)
        status = self.proc.wait()
        self.proc.stdout.close()
        self.proc.stdin.close()
        self.proc = None
        if not self.leaving or (status not in (0, -signal.SIGKILL)):
            m.bad("node %d ended by itself with %s" % (self.at, status))
        if status == 0 and not self.closed:
            m.bad("node %d left without a word" % self.at)
        for t in list(self.open):
            t.gone(self)
            if t.over():
                m.finish(t)
        self.open = set()
        self.up = {}


class Transfer:
    def __init__(self, number, sender, receiver, tokens):
        self.number, self.tokens = number, tokens
        self.ends = {sender: None, receiver: None}
        self.touched = False

    def gone(self, node):
        """The node's process is no more: it owes no end."""
        self.touched = True
        if self.ends[node] is None:
            self.ends[node] = HUSH

    def over(self):
        return all(e is not None for e in self.ends.values())


class Mesh:
    def __init__(self, args):
        self.args, self.random = args, random.Random(args.seed)
        self.selector = selectors.DefaultSelector()
        self.senders, self.receivers = range(args.senders), range(args.senders, args.senders + args.receivers)
        self.dialled = {}
        self.nodes = [Node(self, i) for i in range(args.senders + args.receivers)]
        self.transfers, self.made, self.problems = {}, 0, []
        self.right = self.failed = self.touched = self.kills = self.leaves = self.restarts = self.joins = self.losses = 0
        self.pairs = set()
        self.most_kb = 0
        self.heard_at = time.monotonic()

    def bad(self, text):
        if len(self.problems) < 50:
            print("# " + text, flush=True)
        self.problems.append(text)

    def dials(self, a, b):
        """Of each pair that moves KV one side dials; now the sender, now the receiver."""
        if a == b or (a in self.senders) == (b in self.senders):
            return False
        pair = (min(a, b), max(a, b))
        if pair not in self.dialled:
            self.dialled[pair] = self.random.choice(pair)
        return self.dialled[pair] == a

    # --- what nodes say ---

    def heard(self, node, line):
        self.heard_at = time.monotonic()
        word, _, rest = line.partition(" ")
        if word == "ready":
            node.ready, node.fds = True, int(rest)
        elif word == "up":
            at, life = (int(x) for x in rest.split())
            node.up[at] = life
        elif word == "lost":
            at, _, text = rest.partition(" ")
            self.lost(node, int(at), text)
        elif word == "end":
            number, err, text = (rest.split(" ", 2) + [""])[:3]
            self.end(node, int(number), int(err), text)
        elif word == "used":
            node.used = [int(x) for x in rest.split()]
            self.most_kb = max(self.most_kb, node.used[5])
        elif word == "closed":
            node.closed = True
        else:
            self.bad("node %d: %s" % (node.at, line))

    def lost(self, node, at, text):
        was, other = node.up.pop(at, None), self.nodes[at]
        self.losses += 1
        if was == other.life and other.proc is not None and not other.leaving and not node.leaving:
            self.bad("node %d lost node %d, which nobody had touched: %s" % (node.at, at, text))

    def end(self, node, number, err, text):
        t = self.transfers.get(number)
        if t is None or t.ends.get(node) is not None:
            self.bad("node %d: transfer %d ended twice, or was never opened: %s" % (node.at, number, text))
            return
        t.ends[node] = err
        node.open.discard(t)
        if err != 0 and not text.strip():
            self.bad("node %d: transfer %d failed with %d and no sentence" % (node.at, number, err))
        if err != 0 and not t.touched:
            t.why = "node %d: %d %s" % (node.at, err, text)
        if t.over():
            self.finish(t)

    def finish(self, t):
        ends = [e for e in t.ends.values()]
        del self.transfers[t.number]
        self.touched += t.touched
        if ends == [0, 0]:
            self.right += 1
            return
        self.failed += 1
        if not t.touched:
            self.bad("transfer %d of %d tokens failed and nobody had touched its nodes: %s" % (t.number, t.tokens, t.why))

    # --- what is done to them ---

    def pair(self):
        """A sender and a receiver that know each other's latest life; the pairs that had no transfer yet come first."""
        free = [n for n in self.nodes if n.proc is not None and not n.leaving and n.ready and len(n.open) < NODE_OPEN]
        pairs = [(s, r) for s in free for r in free if s.at in self.senders and r.at in self.receivers and s.up.get(r.at) == r.life and r.up.get(s.at) == s.life]
        new = [(s, r) for s, r in pairs if (s.at, r.at) not in self.pairs]
        missing = len(self.senders) * len(self.receivers) - len(self.pairs)
        if not new and self.args.transfers - self.made <= missing:
            return None  # what is left is for pairs that aren't up yet
        return self.random.choice(new or pairs) if pairs else None

    def begin(self):
        found = self.pair()
        if found is None:
            return False
        s, r = found
        self.made += 1
        t = Transfer(self.made, s, r, self.random.randint(1, TOKENS))
        self.pairs.add((s.at, r.at))
        self.transfers[t.number] = t
        s.open.add(t)
        r.open.add(t)
        lines = [(r, "offer %d %d %d" % (t.number, s.at, t.tokens)), (s, "stream %d %d" % (t.number, t.tokens))]
        self.random.shuffle(lines)
        for node, line in lines:
            node.say(line)
        return True

    def fault(self):
        """One node is killed, leaves, or is restarted at once."""
        living = [n for n in self.nodes if n.proc is not None and n.ready and not n.leaving]
        if len(living) < len(self.nodes) * 3 // 4:
            return False
        node, kind = self.random.choice(living), self.random.choice(["kill", "leave", "restart"])
        for t in node.open:
            t.touched = True
        node.leaving = True
        if self.args.control and not self.kills:
            node.leaving, kind = False, "kill"
            for t in node.open:
                t.touched = False
        if kind == "leave":
            node.say("quit")
            self.leaves += 1
        else:
            node.proc.send_signal(signal.SIGKILL)
            self.kills += 1
        node.back_at = time.monotonic() + (0 if kind == "restart" else self.random.uniform(0.1, 1.5))
        self.restarts += kind == "restart"
        return True

    def bring_back(self):
        for n in self.nodes:
            if n.proc is None and time.monotonic() >= n.back_at:
                self.joins += 1
                n.start()

    def turn(self):
        for key, _ in self.selector.select(0.05):
            if key.data.proc is not None:
                key.data.read()

    def until(self, done, what):
        while not done():
            self.turn()
            if time.monotonic() - self.heard_at > QUIET:
                self.bad("nothing was heard for %d s while %s" % (QUIET, what))
                for t in self.transfers.values():
                    self.bad("transfer %d is open: %s" % (t.number, ", ".join("node %d %s" % (n.at, "gone" if e is HUSH else "open" if e is None else "ended %d" % e) for n, e in t.ends.items())))
                return False
        return True

    def run(self):
        late = set(self.random.sample(range(len(self.nodes)), len(self.nodes) // 8))
        for n in self.nodes:
            if n.at in late:
                n.back_at = time.monotonic() + 1.0
            else:
                n.start()
        every = max(1, self.args.transfers // (self.args.faults + 1))
        next_fault, faults = every, 0

        def work():
            nonlocal next_fault, faults
            self.bring_back()
            while self.made < self.args.transfers and len(self.transfers) < self.args.open and self.begin():
                pass
            if self.made >= next_fault and faults < self.args.faults and self.fault():
                next_fault, faults = next_fault + every, faults + 1
            return self.made >= self.args.transfers and not self.transfers
        return self.until(work, "transfers were open")

    # --- the end ---

    def look_at_all(self):
        """All is given back, if not at once then when idle peers' landing slots have been taken back."""
        def all_used():
            return all(n.used is not None for n in self.nodes)
        for _ in range(40):
            for n in self.nodes:
                n.used = None
                n.say("look")
            if not self.until(all_used, "nodes were asked what they use"):
                return
            left = [n for n in self.nodes if n.used[:4] != [0, 0, SLOTS, STAGES] or n.used[4] != n.fds]
            if not left:
                return
            time.sleep(0.25)
        for n in left:
            self.bad("node %d still uses: transfers %d, blocks %d; free: landing slots %d of %d, staging slots %d of %d; descriptors %d, at its begin %d" % (n.at, n.used[0], n.used[1], n.used[2], SLOTS, n.used[3], STAGES, n.used[4], n.fds))

    def close(self):
        for n in self.nodes:
            n.leaving = True
            n.say("quit")
        self.until(lambda: all(n.proc is None for n in self.nodes), "nodes closed")
        for n in self.nodes:
            if n.proc is not None:
                n.proc.kill()


def control(mesh):
    """What must be found is found."""
    mesh.run()
    mesh.close()
    print("1..2")
    for number, (what, words) in enumerate((("wrong bytes", "ended well with other bytes"), ("a node that died by itself", "ended by itself with"))):
        found = any(words in p for p in mesh.problems)
        print("%sok %d - control: %s" % ("" if found else "not ", number + 1, what))
    sys.exit(0 if sum("not opened" in p for p in mesh.problems) == 0 else 1)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("program")
    for name, default in (("senders", 8), ("receivers", 8), ("transfers", 2000), ("open", 48), ("faults", 60), ("seed", 1), ("port", 27500), ("dead-ms", 5000)):
        p.add_argument("--" + name, type=int, default=default)
    p.add_argument("--control", action="store_true")
    args = p.parse_args()
    began, mesh = time.monotonic(), Mesh(args)
    if args.control:
        return control(mesh)
    print("1..4", flush=True)

    def tap(number, name, before):
        good = len(mesh.problems) == before
        print("%sok %d - %s" % ("" if good else "not ", number, name), flush=True)
        return len(mesh.problems)
    ran = mesh.run()
    before = tap(1, "%d transfers between %d senders and %d receivers: %d right, %d ended with a sentence" % (mesh.made, args.senders, args.receivers, mesh.right, mesh.failed), 0)
    if ran and len(mesh.pairs) < args.senders * args.receivers <= args.transfers:
        mesh.bad("only %d pairs had a transfer" % len(mesh.pairs))
    before = tap(2, "every pair had one: %d" % len(mesh.pairs), before)
    if ran:
        mesh.until(lambda: all(n.proc is not None and n.ready for n in mesh.nodes) or mesh.bring_back(), "the last nodes came back")
        mesh.look_at_all()
    before = tap(3, "no block, slot or descriptor is left", before)
    mesh.close()
    tap(4, "all leave by themselves", before)
    print("# seed, transfers, pairs, right, failed, of them touched, kill -9, leaves, restarts at once, joins, losses heard, most resident KiB, seconds")
    print("# ROW | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %.0f |" % (args.seed, mesh.made, len(mesh.pairs), mesh.right, mesh.failed, mesh.touched, mesh.kills, mesh.leaves, mesh.restarts, mesh.joins, mesh.losses, mesh.most_kb, time.monotonic() - began))
    sys.exit(1 if mesh.problems else 0)


main()
