-- SPDX-License-Identifier: Apache-2.0
-- kvwire.lua - a dissector for Wireshark and tshark: the packet protocol (../packet/SPEC.md) over UDP, and inside
-- it the KV protocol (../../kvwire/SPEC.md): control messages and chunk headers.
--
--     tshark -X lua_script:kvwire.lua -r capture.pcap -V
--     cp kvwire.lua ~/.local/lib/wireshark/plugins/      # Wireshark then loads it by itself
--
-- Control messages are put together from the MSG packets of a connection, also when these come out of order, and are shown
-- in the packet that completes them. A connection whose start was not captured shows packets, but no messages.

local packet = Proto("kvpacket", "kvwire packet protocol")
local kv = Proto("kvwire", "kvwire KV protocol")

packet.prefs.port = Pref.uint("UDP port", 7400, "Packets to or from this port are always read as kvwire's")
packet.prefs.check = Pref.bool("Check CRC32C", false, "Sum each packet (slow in long captures)")

-- Names of numbers. tests/net/wireshark/dissect.py compares them with the headers named beside them.

local TYPES = { -- net/packet/wire.h: enum kvn_packet_type
  [1] = "HELLO", [2] = "HELLO_ACK", [3] = "DATA", [4] = "MSG", [5] = "ACK", [6] = "PING", [7] = "GOODBYE",
  [8] = "RESET", [9] = "CHALLENGE", [10] = "RESPONSE", [11] = "NACK",
}
local RESETS = { [1] = "UNKNOWN", [2] = "VERSION", [3] = "FULL" } -- net/packet/wire.h: enum kvn_reset_reason
local MESSAGES = { -- kvwire/wire/types.h: enum kvw_wire_type
  [1] = "HELLO", [2] = "REJECT", [3] = "OFFER", [4] = "GRANT", [5] = "ALIVE", [6] = "COMMIT", [7] = "DONE",
  [8] = "ABORT", [9] = "POOL", [10] = "REFUSE", [11] = "STAGED", [12] = "RECALL", [13] = "RETURN", [14] = "REGION",
  [15] = "GONE", [16] = "BATCH", [17] = "BATCH_DONE", [18] = "NOTIFY",
}
local ERRORS = { -- kvwire/err.h: KVW_E_*
  [0] = "OK", [-1] = "AGAIN", [-2] = "INVALID", [-3] = "NOMEM", [-4] = "NOTFOUND", [-5] = "IO", [-6] = "FORMAT",
  [-20] = "CHECKSUM", [-21] = "CANCELED", [-22] = "LEASE", [-23] = "DEADLINE", [-24] = "NOBLOCKS", [-25] = "CODEC",
  [-40] = "TRUNCATED", [-41] = "PROTOCOL", [-42] = "PEER_LOST", [-43] = "VERSION", [-44] = "MISMATCH",
  [-60] = "DEVICE", [-61] = "ADDRESS", [-62] = "UNSUPPORTED",
}
local BUDGETS = { [0] = "exact", [1] = "fp8", [2] = "int4" }
local KINDS = { [1] = "PAGED", [2] = "WINDOW", [3] = "ROW" }
local YES = { [0] = "no", [1] = "yes" }

-- Fields. f("kvwire.offer.epoch", "Epoch", "u32") makes one; how it is read follows from its length where it is added.

local ids = { kvpacket = {}, kvwire = {} }

local MAKERS = {
  i32 = function(abbr, name, values) return ProtoField.int32(abbr, name, base.DEC, values) end,
  u8 = function(abbr, name, values) return ProtoField.uint8(abbr, name, base.DEC, values) end,
  u16 = function(abbr, name, values) return ProtoField.uint16(abbr, name, base.DEC, values) end,
  u24 = function(abbr, name, values) return ProtoField.uint24(abbr, name, base.DEC, values) end,
  u32 = function(abbr, name, values) return ProtoField.uint32(abbr, name, base.DEC, values) end,
  u64 = function(abbr, name) return ProtoField.uint64(abbr, name, base.DEC) end,
  x16 = function(abbr, name) return ProtoField.uint16(abbr, name, base.HEX) end,
  x32 = function(abbr, name) return ProtoField.uint32(abbr, name, base.HEX) end,
  x64 = function(abbr, name) return ProtoField.uint64(abbr, name, base.HEX) end,
  raw = function(abbr, name) return ProtoField.bytes(abbr, name) end,
  text = function(abbr, name) return ProtoField.string(abbr, name) end,
}

local function f(abbr, name, kind, values)
  local field = MAKERS[kind](abbr, name, values)
  local all = ids[abbr:match("^%w+")]
  all[#all + 1] = field
  return { field = field, raw = kind == "raw" or kind == "text" }
end

local function add(tree, tvb, at, bytes, field)
  if bytes == 0 then return end
  if field.raw then return tree:add(field.field, tvb(at, bytes)) end
  return tree:add_le(field.field, tvb(at, bytes))
end

-- A layout is a list of {at, bytes, field}; bytes that it leaves out don't exist.
local function add_all(tree, tvb, layout, from)
  for _, row in ipairs(layout) do add(tree, tvb, (from or 0) + row[1], row[2], row[3]) end
end

local function u8(tvb, at) return tvb(at, 1):uint() end
local function u16(tvb, at) return tvb(at, 2):le_uint() end
local function u32(tvb, at) return tvb(at, 4):le_uint() end
local function u64(tvb, at) return tvb(at, 8):le_uint64():tonumber() end

-- The KV protocol's messages. Each layout is a table of kvwire/SPEC.md 3.

local v = {
  type = f("kvwire.type", "Type", "u8", MESSAGES),
  reserved = f("kvwire.reserved", "Reserved", "raw"),
  unused = f("kvwire.unused", "Unused", "raw"),
  magic = f("kvwire.magic", "Magic", "x32"),
  layout = f("kvwire.layout", "Layout of HELLO", "u32"),
  versions = f("kvwire.versions", "Versions", "x64"),
  instance = f("kvwire.instance", "Instance", "x64"),
  codecs = f("kvwire.codecs", "Codecs", "x64"),
  digests = f("kvwire.digests", "Digests", "x64"),
  features = f("kvwire.features", "Features", "x64"),
  slot_bytes = f("kvwire.slot_bytes", "Bytes of a landing slot", "u32"),
  offers = f("kvwire.offers", "Offers held of one peer", "u32"),
  dead_ms = f("kvwire.dead_ms", "Silence that ends a peer, ms", "u32"),
  region = f("kvwire.region", "Region key of the landing slots", "raw"),
  name_len = f("kvwire.name_len", "Length of the name", "u8"),
  name = f("kvwire.name", "Name", "text"),
  error = f("kvwire.error", "Error", "i32", ERRORS),
  text_len = f("kvwire.text_len", "Length of the text", "u32"),
  text = f("kvwire.text", "Text", "text"),
  epoch = f("kvwire.epoch", "Epoch", "u32"),
  key = f("kvwire.key", "Key", "raw"),
  budget = f("kvwire.budget", "Budget", "u8", BUDGETS),
  pool = f("kvwire.pool", "Pool", "u16"),
  lease = f("kvwire.lease", "Lease, ns", "u64"),
  take_by = f("kvwire.take_by", "Take by, ns from now", "u64"),
  tokens = f("kvwire.tokens", "Tokens of the sequence", "u32"),
  exact_first = f("kvwire.exact_first", "First tokens that stay exact", "u8"),
  exact_last = f("kvwire.exact_last", "Last tokens that stay exact", "u16"),
  spans = f("kvwire.spans", "Spans", "u8"),
  pull = f("kvwire.pull", "What was staged is wanted", "u8", YES),
  stage = f("kvwire.stage", "Staged under the number", "u32"),
  group = f("kvwire.group", "Group", "u8"),
  part = f("kvwire.part", "Part", "u8"),
  first_layer = f("kvwire.first_layer", "First layer", "u16"),
  layers = f("kvwire.layers", "Layers", "u16"),
  first_token = f("kvwire.first_token", "First token", "u32"),
  end_token = f("kvwire.end_token", "Token after the last", "u32"),
  first_row = f("kvwire.first_row", "First row", "u32"),
  rows = f("kvwire.rows", "Rows", "u32"),
  codec = f("kvwire.codec", "Codec", "u8"),
  slots = f("kvwire.slots", "Slots", "u16"),
  slot = f("kvwire.slot", "Slot", "u16"),
  cost = f("kvwire.cost", "Picoseconds a raw byte", "u32"),
  from = f("kvwire.from", "From put", "u64"),
  next = f("kvwire.next", "Next put", "u64"),
  epochs = f("kvwire.epochs", "Number of epochs", "u16"),
  chunks = f("kvwire.chunks", "Chunks", "u32"),
  note_len = f("kvwire.note_len", "Length of the note", "u32"),
  note = f("kvwire.note", "Note", "raw"),
  raw_bytes = f("kvwire.raw_bytes", "Raw bytes", "u64"),
  gone = f("kvwire.gone", "Gone", "u8", YES),
  model_layers = f("kvwire.model_layers", "Layers of the model", "u32"),
  fingerprint = f("kvwire.fingerprint", "Fingerprint of the weights", "raw"),
  groups = f("kvwire.groups", "Groups", "u8"),
  kind = f("kvwire.kind", "Kind", "u8", KINDS),
  parts = f("kvwire.parts", "Parts", "u8"),
  runs = f("kvwire.runs", "Runs of layers", "u16"),
  block_entries = f("kvwire.block_entries", "Entries in a block", "u32"),
  entry_tokens = f("kvwire.entry_tokens", "Tokens an entry", "u32"),
  window = f("kvwire.window", "Window, tokens", "u32"),
  blocks = f("kvwire.blocks", "Blocks", "u32"),
  element = f("kvwire.element", "Element type", "u8"),
  row_bytes = f("kvwire.row_bytes", "Bytes of a row", "u32"),
  model_rows = f("kvwire.model_rows", "Rows of the model", "u32"),
  body = f("kvwire.body", "Body", "raw"),
  -- a chunk's header
  chunk_magic = f("kvwire.chunk.magic", "Magic", "x32"),
  key_half = f("kvwire.chunk.key", "First half of the key", "raw"),
  seq = f("kvwire.chunk.seq", "Sequence number of the put", "u32"),
  layer = f("kvwire.chunk.layer", "Layer", "u16"),
  digest_id = f("kvwire.chunk.digest_id", "Digest id", "u8"),
  stream_at = f("kvwire.chunk.stream_at", "Where the stream is", "u8"),
  first_entry = f("kvwire.chunk.first_entry", "First entry", "u32"),
  entries = f("kvwire.chunk.entries", "Entries", "u32"),
  raw32 = f("kvwire.chunk.raw_bytes", "Raw bytes", "u32"),
  digest = f("kvwire.chunk.digest", "Digest of the raw bytes", "x64"),
  stream_bytes = f("kvwire.chunk.stream_bytes", "Bytes of the stream", "u32"),
  check = f("kvwire.chunk.check", "Check of this header", "x32"),
}

local CHUNK_MAGIC, CHUNK_BYTES = 0x3243564b, 64 -- kvwire/wire/types.h: KVW_WIRE_CHUNK_MAGIC, KVW_WIRE_CHUNK_LEN

local CHUNK = {
  { 0, 4, v.chunk_magic }, { 4, 4, v.epoch }, { 8, 8, v.key_half }, { 16, 4, v.seq }, { 20, 2, v.layer },
  { 22, 1, v.group }, { 23, 1, v.part }, { 24, 1, v.codec }, { 25, 1, v.digest_id }, { 26, 1, v.stream_at }, { 27, 1, v.reserved },
  { 28, 4, v.first_row }, { 32, 4, v.rows }, { 36, 4, v.first_entry }, { 40, 4, v.entries }, { 44, 4, v.raw32 },
  { 48, 8, v.digest }, { 56, 4, v.stream_bytes }, { 60, 4, v.check },
}
local TRANSFER = { { 1, 3, v.reserved }, { 4, 4, v.epoch }, { 8, 16, v.key } } -- how most messages begin
local SPAN = {
  { 0, 1, v.group }, { 1, 1, v.part }, { 2, 2, v.first_layer }, { 4, 2, v.layers }, { 6, 2, v.reserved },
  { 8, 4, v.first_token }, { 12, 4, v.end_token }, { 16, 4, v.first_row }, { 20, 4, v.rows }, { 24, 8, v.reserved },
}

-- Each reader adds what follows the type byte and returns a short line for the packet list, or nil.
local readers = {}

readers[1] = function(tree, m)
  add_all(tree, m, {
    { 1, 3, v.unused }, { 4, 4, v.magic }, { 8, 4, v.layout }, { 12, 4, v.unused }, { 16, 8, v.versions },
    { 24, 8, v.instance }, { 32, 8, v.codecs }, { 40, 8, v.digests }, { 48, 8, v.features }, { 56, 4, v.slot_bytes },
    { 60, 4, v.offers }, { 64, 4, v.dead_ms }, { 68, 4, v.unused }, { 72, 32, v.region }, { 104, 1, v.name_len },
    { 105, 3, v.reserved }, { 108, u8(m, 104), v.name },
  })
  add(tree, m, 108 + u8(m, 104), m:len() - 108 - u8(m, 104), v.unused)
  return "'" .. m(108, u8(m, 104)):string() .. "'"
end

readers[2] = function(tree, m)
  local n = u32(m, 12)
  add_all(tree, m, { { 1, 3, v.unused }, { 4, 4, v.error }, { 8, 4, v.layout }, { 12, 4, v.text_len }, { 16, n, v.text } })
  add(tree, m, 16 + n, m:len() - 16 - n, v.unused)
  return m(16, n):string()
end

readers[3] = function(tree, m)
  add_all(tree, m, {
    { 1, 1, v.budget }, { 2, 2, v.pool }, { 4, 4, v.epoch }, { 8, 16, v.key }, { 24, 8, v.lease }, { 32, 8, v.take_by },
    { 40, 4, v.tokens }, { 44, 1, v.exact_first }, { 45, 1, v.spans }, { 46, 2, v.exact_last }, { 48, 1, v.pull },
    { 49, 3, v.reserved }, { 52, 4, v.stage },
  })
  for i = 0, u8(m, 45) - 1 do
    local at = 56 + 32 * i
    add_all(tree:add(kv, m(at, 32), "Span " .. i), m, SPAN, at)
  end
  return string.format("epoch %d, %d tokens", u32(m, 4), u32(m, 40))
end

readers[4] = function(tree, m)
  add_all(tree, m, { { 1, 1, v.codec }, { 2, 2, v.slots }, { 4, 4, v.cost }, { 8, 8, v.from } })
  for i = 0, u16(m, 2) - 1 do add(tree, m, 16 + 2 * i, 2, v.slot) end
  return string.format("%d slots", u16(m, 2))
end

readers[5] = function(tree, m)
  add_all(tree, m, { { 1, 1, v.reserved }, { 2, 2, v.epochs } })
  for i = 0, u16(m, 2) - 1 do add(tree, m, 4 + 4 * i, 4, v.epoch) end
  return string.format("%d transfers", u16(m, 2))
end

readers[6] = function(tree, m)
  add_all(tree, m, TRANSFER)
  add_all(tree, m, { { 24, 4, v.chunks }, { 28, 4, v.note_len }, { 32, 8, v.raw_bytes }, { 40, u32(m, 28), v.note } })
  return string.format("epoch %d, %d chunks", u32(m, 4), u32(m, 24))
end

readers[7] = function(tree, m)
  add_all(tree, m, TRANSFER)
  add_all(tree, m, { { 24, 4, v.chunks }, { 28, 4, v.reserved }, { 32, 8, v.raw_bytes } })
  return string.format("epoch %d, %d chunks", u32(m, 4), u32(m, 24))
end

readers[8] = function(tree, m)
  add_all(tree, m, TRANSFER)
  add_all(tree, m, { { 24, 4, v.error }, { 28, 4, v.text_len }, { 32, u32(m, 28), v.text } })
  return string.format("epoch %d: %s", u32(m, 4), m(32, u32(m, 28)):string())
end
readers[10] = readers[8]

local function read_part(tree, m, at)
  local n = u8(m, at)
  local sub = tree:add(kv, m(at, 20 + n), "Part " .. m(at + 20, n):string())
  add_all(sub, m, {
    { 0, 1, v.name_len }, { 1, 1, v.element }, { 2, 2, v.reserved }, { 4, 4, v.row_bytes }, { 8, 4, v.rows },
    { 12, 4, v.first_row }, { 16, 4, v.model_rows }, { 20, n, v.name },
  }, at)
  return at + 20 + n
end

local function read_group(tree, m, at, number)
  local sub = tree:add(kv, m(at), "Group " .. number)
  add_all(sub, m, {
    { 0, 1, v.kind }, { 1, 1, v.parts }, { 2, 2, v.runs }, { 4, 4, v.block_entries }, { 8, 4, v.entry_tokens },
    { 12, 4, v.window }, { 16, 4, v.blocks },
  }, at)
  local parts, runs, next = u8(m, at + 1), u16(m, at + 2), at + 20
  for _ = 1, runs do
    add_all(sub, m, { { 0, 2, v.first_layer }, { 2, 2, v.layers } }, next)
    next = next + 4
  end
  for _ = 1, parts do next = read_part(sub, m, next) end
  sub:set_len(next - at)
  return next
end

readers[9] = function(tree, m)
  add_all(tree, m, { { 1, 1, v.gone }, { 2, 2, v.pool } })
  if u8(m, 1) ~= 0 then return string.format("%d is gone", u16(m, 2)) end
  local n = u8(m, 24)
  add_all(tree, m, {
    { 4, 4, v.model_layers }, { 8, 16, v.fingerprint }, { 24, 1, v.name_len }, { 25, 1, v.groups }, { 26, 2, v.reserved },
    { 28, n, v.name },
  })
  local at = 28 + n
  for i = 0, u8(m, 25) - 1 do at = read_group(tree, m, at, i) end
  return string.format("%d, '%s'", u16(m, 2), m(28, n):string())
end

readers[12] = function(tree, m) add(tree, m, 1, 7, v.reserved) end

readers[13] = function(tree, m) add_all(tree, m, { { 1, 7, v.reserved }, { 8, 8, v.next } }) end

-- A message that breaks off, or that says more than is there, stops its reader; what it had added stays.
local function read_message(m, pinfo, root)
  local kind = u8(m, 0)
  local name = MESSAGES[kind] or ("type " .. kind)
  local tree = root:add(kv, m(), "kvwire KV protocol, " .. name)
  add(tree, m, 0, 1, v.type)
  local read = readers[kind] or function(t, b) add(t, b, 1, b:len() - 1, v.body) end
  local fine, line = pcall(read, tree, m)
  if not fine then tree:add_expert_info(PI_MALFORMED, PI_ERROR, "the message is shorter than its fields say") end
  pinfo.cols.info:append(" | " .. name .. (fine and line and (" " .. line) or ""))
end

-- The packet protocol. Each layout is a row of net/packet/SPEC.md 2 and 3.

local p = {
  version = f("kvpacket.version", "Version", "u8"),
  type = f("kvpacket.type", "Type", "u8", TYPES),
  flags = f("kvpacket.flags", "Flags (1 ACK_NOW, 2 AGAIN, 4 HEAD_ONLY)", "u8"),
  path = f("kvpacket.path", "Path", "u8"),
  slice = f("kvpacket.slice", "Slice", "u16"),
  conn = f("kvpacket.conn", "Receiver's connection id", "x32"),
  number = f("kvpacket.number", "Packet number, low 32 bits", "u32"),
  crc = f("kvpacket.crc", "CRC32C", "x32"),
  unused = f("kvpacket.unused", "Unused", "raw"),
  options = f("kvpacket.options", "Options (1: takes DATA with HEAD_ONLY)", "x16"),
  versions = f("kvpacket.versions", "Versions", "x16"),
  source = f("kvpacket.source", "Source id", "x32"),
  payload = f("kvpacket.payload", "Longest packet it takes", "u32"),
  paths = f("kvpacket.paths", "Paths", "u32"),
  stream = f("kvpacket.stream", "Stream bytes before the first ACK", "u32"),
  credit32 = f("kvpacket.credit32", "Credit", "u32"),
  puts = f("kvpacket.puts", "Puts", "u32"),
  padding = f("kvpacket.padding", "Padding", "raw"),
  put = f("kvpacket.put", "Put", "u32"),
  offset = f("kvpacket.offset", "Offset in the region", "u64"),
  region = f("kvpacket.region", "Region", "u24"),
  put_bytes = f("kvpacket.put_bytes", "Bytes of the put", "u32"),
  slice_bytes = f("kvpacket.slice_bytes", "Slice size", "u32"),
  imm = f("kvpacket.imm", "Imm", "x32"),
  data = f("kvpacket.data", "Bytes of the slice", "raw"),
  stream_offset = f("kvpacket.stream_offset", "Stream offset", "u64"),
  stream_data = f("kvpacket.stream_data", "Stream bytes", "raw"),
  largest = f("kvpacket.largest", "Largest received", "u64"),
  delay = f("kvpacket.delay", "Held here, 64 ns", "u32"),
  ce = f("kvpacket.ce", "Marked CE", "u32"),
  limit = f("kvpacket.limit", "Stream limit", "u64"),
  credit = f("kvpacket.credit", "Credit", "u64"),
  count = f("kvpacket.count", "Entries", "u16"),
  ack_path = f("kvpacket.ack_path", "Path that it is about", "u8"),
  gap = f("kvpacket.gap", "Missing above", "u32"),
  length = f("kvpacket.length", "Received", "u32"),
  reason = f("kvpacket.reason", "Reason", "i32", ERRORS),
  reset_id = f("kvpacket.reset_id", "Id", "x32"),
  reset_reason = f("kvpacket.reset_reason", "Reason", "u8", RESETS),
  token = f("kvpacket.token", "Token", "x64"),
  slices = f("kvpacket.slices", "Slices", "u16"),
}

packet.fields = ids.kvpacket
kv.fields = ids.kvwire

local GREETING = { [1] = true, [2] = true, [8] = true }
local LEAST = { -- net/packet/wire.h: KVN_*_BYTES
  [1] = 48, [2] = 48, [3] = 37, [4] = 25, [5] = 60, [6] = 16, [7] = 20, [8] = 32, [9] = 24, [10] = 24, [11] = 28,
}

-- What is known of the capture; a second reading of the same packets finds it again.
local streams, shown -- streams[key]: a control stream; shown[frame]: the messages that the frame completed

function packet.init()
  streams, shown = {}, {}
end

-- The bytes of a MSG go to their place; messages that are whole now are returned.
local function take_stretch(key, at, bytes)
  local s = streams[key]
  if s == nil then
    s = { next = 0, kept = {}, whole = "" }
    streams[key] = s
  end
  if at + #bytes <= s.next then return {} end -- sent again
  s.kept[at] = s.kept[at] and #s.kept[at] >= #bytes and s.kept[at] or bytes
  local found = true
  while found do
    found = false
    for from, b in pairs(s.kept) do
      if from <= s.next then
        if from + #b > s.next then
          s.whole = s.whole .. b:sub(s.next - from + 1)
          s.next = from + #b
          found = true
        end
        s.kept[from] = nil
      end
    end
  end
  local messages = {}
  while #s.whole >= 4 do
    local n = string.unpack and string.unpack("<I4", s.whole) or
      s.whole:byte(1) + 256 * (s.whole:byte(2) + 256 * (s.whole:byte(3) + 256 * s.whole:byte(4)))
    if #s.whole < 4 + n then break end
    messages[#messages + 1] = s.whole:sub(5, 4 + n)
    s.whole = s.whole:sub(5 + n)
  end
  return messages
end

local bodies = {}

local function body_hello(tree, b)
  add_all(tree, b, {
    { 24, 4, p.source }, { 28, 4, p.payload }, { 32, 4, p.paths }, { 36, 4, p.stream }, { 40, 4, p.credit32 }, { 44, 4, p.puts },
    { 48, b:len() - 48, p.padding },
  })
  return string.format("payload %d", u32(b, 28))
end
bodies[1], bodies[2] = body_hello, body_hello

bodies[3] = function(tree, b, pinfo, root)
  local sizes = u32(b, 28)
  add_all(tree, b, { { 16, 4, p.put }, { 20, 5, p.offset }, { 25, 3, p.region } })
  local put_bytes, size = sizes % 0x100000 + 1, math.floor(sizes / 0x100000) * 16
  tree:add(p.put_bytes.field, b(28, 4), put_bytes)
  tree:add(p.slice_bytes.field, b(28, 4), size)
  add(tree, b, 32, 4, p.imm)
  local head = u16(b, 2) == 0 and b:len() >= 36 + CHUNK_BYTES and u32(b, 36) == CHUNK_MAGIC
  add(tree, b, 36, b:len() - 36, p.data)
  local line = string.format("put %d, slice %d, %d of %d bytes", u32(b, 16), u16(b, 2), b:len() - 36, put_bytes)
  if head then
    local c = b(36, CHUNK_BYTES):tvb()
    add_all(root:add(kv, c(), "kvwire KV protocol, chunk"), c, CHUNK)
    line = line .. string.format(" | chunk epoch %d, layer %d, codec %d, %d raw bytes", u32(c, 4), u16(c, 20), u8(c, 24), u32(c, 44))
  end
  return line
end

bodies[4] = function(tree, b, pinfo, root)
  add_all(tree, b, { { 16, 8, p.stream_offset }, { 24, b:len() - 24, p.stream_data } })
  if not pinfo.visited then -- MSG is the last of a frame, so a frame has one
    local key = table.concat({ tostring(pinfo.src), pinfo.src_port, tostring(pinfo.dst), pinfo.dst_port, u32(b, 4) }, " ")
    shown[pinfo.number] = take_stretch(key, u64(b, 16), b:raw(24))
  end
  return string.format("stream %d, %d bytes", u64(b, 16), b:len() - 24)
end

bodies[5] = function(tree, b)
  add_all(tree, b, {
    { 16, 8, p.largest }, { 24, 4, p.delay }, { 28, 4, p.ce }, { 32, 8, p.limit }, { 40, 8, p.credit }, { 48, 2, p.count },
    { 50, 1, p.ack_path }, { 51, 1, p.unused },
  })
  for i = 0, u16(b, 48) - 1 do add_all(tree, b, { { 0, 4, p.gap }, { 4, 4, p.length } }, 52 + 8 * i) end
  return string.format("up to %d", u64(b, 16))
end

bodies[6] = function(tree, b) add(tree, b, 16, b:len() - 16, p.padding) end

bodies[7] = function(tree, b)
  add(tree, b, 16, 4, p.reason)
  return ERRORS[b(16, 4):le_int()]
end

bodies[8] = function(tree, b)
  add_all(tree, b, { { 24, 4, p.reset_id }, { 28, 1, p.reset_reason }, { 29, 3, p.unused } })
  return RESETS[u8(b, 28)]
end

bodies[9] = function(tree, b) add(tree, b, 16, 8, p.token) end
bodies[10] = bodies[9]

bodies[11] = function(tree, b)
  add_all(tree, b, { { 16, 2, p.count }, { 18, 2, p.unused } })
  for i = 0, u16(b, 16) - 1 do add_all(tree, b, { { 0, 4, p.put }, { 4, 2, p.slice }, { 6, 2, p.slices } }, 20 + 8 * i) end
  return string.format("%d stretches", u16(b, 16))
end

local crc_table

local function crc32c(bytes)
  if crc_table == nil then
    crc_table = {}
    for i = 0, 255 do
      local c = i
      for _ = 1, 8 do c = bit32.bxor(bit32.rshift(c, 1), bit32.band(c, 1) == 1 and 0x82F63B78 or 0) end
      crc_table[i] = c
    end
  end
  local c = 0xFFFFFFFF
  for i = 1, #bytes do
    c = bit32.bxor(crc_table[bit32.band(bit32.bxor(c, bytes:byte(i)), 0xFF)], bit32.rshift(c, 8))
  end
  return bit32.bnot(c)
end

local function crc_at(kind) return GREETING[kind] and 16 or 12 end

-- DATA with HEAD_ONLY: its digest ends where the slice begins.
local function crc_fits(b)
  local kind = u8(b, 0) % 16
  local at, bytes = crc_at(kind), b:raw()
  if kind == 3 and math.floor(u8(b, 1) / 4) % 2 == 1 then bytes = bytes:sub(1, 36) end
  return crc32c(bytes:sub(1, at) .. "\0\0\0\0" .. bytes:sub(at + 5)) == u32(b, at)
end

local function add_header(tree, b, kind)
  tree:add(p.version.field, b(0, 1), math.floor(u8(b, 0) / 16))
  tree:add(p.type.field, b(0, 1), kind)
  tree:add(p.flags.field, b(1, 1), u8(b, 1) % 32)
  tree:add(p.path.field, b(1, 1), math.floor(u8(b, 1) / 32))
  add(tree, b, 2, 2, kind == 3 and p.slice or p.unused)
  add(tree, b, 4, 4, p.conn)
  if GREETING[kind] then
    add_all(tree, b, { { 8, 8, p.unused }, { 16, 4, p.crc }, { 20, 2, p.versions }, { 22, 2, p.options } })
  else
    add_all(tree, b, { { 8, 4, p.number }, { 12, 4, p.crc } })
  end
end

-- A capture on the sending host shows what was handed to the interface at once: several packets in a row (GSO). DATA tells
-- where it ends; what comes behind it is the next packet. The others stand alone, or last.
local function split(b, kind)
  if kind ~= 3 then return b:len() end
  local sizes, slice = u32(b, 28), u16(b, 2)
  local put_bytes, size = sizes % 0x100000 + 1, math.floor(sizes / 0x100000) * 16
  local bytes = 36 + math.min(size, put_bytes - slice * size)
  return bytes >= LEAST[kind] and bytes < b:len() and bytes or b:len()
end

local function dissect_one(b, pinfo, root, kind)
  local tree = root:add(packet, b(), "kvwire packet, " .. TYPES[kind])
  add_header(tree, b, kind)
  if packet.prefs.check and not crc_fits(b) then
    tree:add_expert_info(PI_CHECKSUM, PI_ERROR, "the CRC32C doesn't fit: the packet is damaged")
  end
  pinfo.cols.info:append(TYPES[kind])
  local fine, line = pcall(bodies[kind], tree, b, pinfo, root)
  if not fine then tree:add_expert_info(PI_MALFORMED, PI_ERROR, "the packet is shorter than its fields say") end
  if fine and line then pinfo.cols.info:append(" " .. line) end
  for _, bytes in ipairs(kind == 4 and shown[pinfo.number] or {}) do
    read_message(ByteArray.new(bytes, true):tvb("Control message"), pinfo, root)
  end
end

function packet.dissector(b, pinfo, root)
  local all, at = b:len(), 0
  pinfo.cols.info = ""
  while at < all do
    local rest = b(at):tvb()
    local kind = rest:len() >= 16 and u8(rest, 0) % 16 or 0
    if LEAST[kind] == nil or rest:len() < LEAST[kind] then break end
    pinfo.cols.protocol = "kvwire"
    if at > 0 then pinfo.cols.info:append("; ") end
    local bytes = split(rest, kind)
    dissect_one(rest(0, bytes):tvb(), pinfo, root, kind)
    at = at + bytes
  end
  return at
end

-- Other ports: a greeting whose sum fits makes all of its conversation ours.
local function guess(b, pinfo, root)
  if b:len() < 32 or not GREETING[u8(b, 0) % 16] or u8(b, 0) < 16 or not crc_fits(b) then return false end
  pinfo.conversation = packet
  packet.dissector(b, pinfo, root)
  return true
end

packet:register_heuristic("udp", guess)

local bound
function packet.prefs_changed()
  local table = DissectorTable.get("udp.port")
  if bound then table:remove(bound, packet) end
  bound = packet.prefs.port
  table:add(bound, packet)
end
bound = packet.prefs.port
DissectorTable.get("udp.port"):add(bound, packet)
