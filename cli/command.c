#include "cli/command.h"

#define PLACE(member) .offset = offsetof(struct option_values, member)
#define TABLE(specs)                                                           \
    {                                                                          \
        specs, sizeof specs / sizeof *specs                                    \
    }

static const struct option_spec globals[] = {
    {"server", 's', OPTION_NAME, "ADDRESS", 1, 255, PLACE(server),
        .help = "host:port or unix:/path; else $KVPOOL_SERVER,\n"
                "else 127.0.0.1:7440"},
    {"output", 'o', OPTION_CHOICE, "text|json|jsonl", PLACE(format),
        .help = "text for people (default), json for one\n"
                "document, jsonl for one line each"},
    {"timeout", 't', OPTION_DURATION, "DURATION", PLACE(timeout_ns),
        .help = "give up after this: 500ms, 30s, 5m; default 10s,\n"
                "none for generate and receipts tail"},
    {"verbose", 'v', OPTION_FLAG, PLACE(verbose), .help = "say more on stderr"},
    {"help", 'h', OPTION_FLAG, PLACE(help), .help = "this text"},
    {"version", 'V', OPTION_FLAG, PLACE(version),
        .help = "the version of kvpoolctl"},
};
const struct option_table command_globals = TABLE(globals);

#define TENANT                                                                 \
    {                                                                          \
        "tenant", 'T', OPTION_NAME, "TENANT", 0, 128, PLACE(tenant),           \
            .help = "of this tenant; '' is the default one"                    \
    }

static const struct option_spec ping_options[] = {
    {"wait", 'w', OPTION_FLAG, PLACE(wait_serving),
        .help = "try again until it serves or --timeout is over"},
};

static const struct option_spec generate_options[] = {
    {"session", 'S', OPTION_NAME, "ID", 1, 128, .max_times = 1, PLACE(sessions),
        .help = "continue this conversation, or begin it"},
    TENANT,
    {"continue-from", '\0', OPTION_SET_COUNT, "N", 0, UINT64_MAX,
        PLACE(continue_from),
        .help = "keep the first N tokens of the --session only,\n"
                "and go on behind them"},
    {"max-tokens", 'n', OPTION_COUNT, "N", 1, UINT32_MAX, PLACE(max_tokens),
        .help = "generate at most this many tokens; default 256"},
    {"temperature", '\0', OPTION_REAL, "X", 0, 2, PLACE(temperature),
        .help = "0 to 2; 0 is greedy (default)"},
    {"top-k", '\0', OPTION_COUNT, "N", 0, UINT32_MAX, PLACE(top_k),
        .help = "only the N most likely tokens; 0 is no limit"},
    {"top-p", '\0', OPTION_REAL, "X", 0, 1, PLACE(top_p),
        .help = "only the most likely tokens that reach this\n"
                "probability; 0 is no limit"},
    {"min-p", '\0', OPTION_REAL, "X", 0, 1, PLACE(min_p),
        .help = "only tokens at least this likely relative to the\n"
                "most likely one; 0 is no limit"},
    {"repetition-penalty", '\0', OPTION_REAL, "X", 0, 2,
        PLACE(repetition_penalty),
        .help = "makes tokens seen before less likely above 1,\n"
                "more likely below; 0 is off"},
    {"frequency-penalty", '\0', OPTION_SIGNED, "X", 0, 2,
        PLACE(frequency_penalty),
        .help = "taken from a token's logit for each time it was\n"
                "seen, -2 to 2"},
    {"presence-penalty", '\0', OPTION_SIGNED, "X", 0, 2,
        PLACE(presence_penalty),
        .help = "taken from a token's logit if it was seen,\n"
                "-2 to 2"},
    {"penalty-window", '\0', OPTION_COUNT, "N", 1, UINT32_MAX,
        PLACE(penalty_window),
        .help = "tokens that penalties look back on; default 64"},
    {"logit-bias", '\0', OPTION_NAME, "TOKEN=X,...", 1, 1 << 16,
        PLACE(logit_bias),
        .help = "added to logits, -100 (never) to 100, as in\n"
                "15=-100,7=2.5"},
    {"logprobs", '\0', OPTION_FLAG, PLACE(logprobs),
        .help = "log-probabilities, with -o json or jsonl"},
    {"top-logprobs", '\0', OPTION_COUNT, "N", 1, 20, PLACE(top_logprobs),
        .help = "with --logprobs: of the N most likely tokens too"},
    {"seed", '\0', OPTION_COUNT, "N", 0, UINT64_MAX, PLACE(seed),
        .help = "the same seed gives the same text; 0: any"},
    {"stop", '\0', OPTION_TEXT, "TEXT", 1, 256, .max_times = 16, PLACE(stops),
        .help = "end before this text; up to 16 times"},
    {"ignore-eos", '\0', OPTION_FLAG, PLACE(ignore_eos),
        .help = "go on after an end of text"},
    {"prefill-only", '\0', OPTION_FLAG, PLACE(prefill_only),
        .help = "compute the input's blocks, generate nothing"},
    {"tokens", '\0', OPTION_NAME, "1,2,3", 0, 1 << 24, PLACE(tokens),
        .help = "tokens instead of a PROMPT"},
};

static const struct option_spec tokenize_options[] = {
    {"add-special", '\0', OPTION_FLAG, PLACE(add_special),
        .help = "begin as the model wants a text to begin"},
    {"parse-special", '\0', OPTION_FLAG, PLACE(parse_special),
        .help = "take names such as <s> for those tokens"},
    {"pieces", '\0', OPTION_FLAG, PLACE(with_pieces),
        .help = "the bytes of each token too"},
};

static const struct option_spec detokenize_options[] = {
    {"with-special", '\0', OPTION_FLAG, PLACE(with_special),
        .help = "show special tokens by their names"},
};

static const struct option_spec sessions_options[] = {
    TENANT,
    {"limit", 'n', OPTION_COUNT, "N", 1, UINT64_MAX, PLACE(limit),
        .help = "at most this many; default all"},
    {"order", '\0', OPTION_CHOICE, "key|age|size|idle|hits", .first_choice = 1,
        PLACE(order),
        .help = "the oldest, largest, longest idle or most hit\n"
                "first; default by tenant and session"},
    {"prefix", '\0', OPTION_NAME, "TEXT", 1, 128, PLACE(prefix),
        .help = "only those whose id begins so"},
    {"state", '\0', OPTION_CHOICE, "running|preempted|held|cached|evicted",
        .first_choice = 1, PLACE(state), .help = "only those in this state"},
    {"min-idle", '\0', OPTION_DURATION, "DURATION", PLACE(min_idle_ns),
        .help = "only those idle for at least this long"},
    {"min-age", '\0', OPTION_DURATION, "DURATION", PLACE(min_age_ns),
        .help = "only those at least this old"},
    {"min-bytes", '\0', OPTION_COUNT, "N", 1, UINT64_MAX, PLACE(min_bytes),
        .help = "only those that hold at least this many bytes"},
};

static const struct option_spec snapshot_options[] = {
    {"sessions", '\0', OPTION_FLAG, PLACE(with_sessions),
        .help = "the first 1000 sessions of the same instant too"},
    {"tenants", '\0', OPTION_FLAG, PLACE(with_tenants),
        .help = "the first 1000 tenants, and their quotas"},
    {"block-map", '\0', OPTION_FLAG, PLACE(with_block_map),
        .help = "the first 4096 runs of the arena"},
    {"histograms", '\0', OPTION_FLAG, PLACE(with_histograms),
        .help = "times of requests, and ages of sessions"},
    {"sinks", '\0', OPTION_FLAG, PLACE(with_sinks),
        .help = "where receipts go, and how far each place is"},
    {"subscribers", '\0', OPTION_FLAG, PLACE(with_subscribers),
        .help = "who follows the receipts, and how far behind"},
};

static const struct option_spec evict_options[] = {
    {"session", 'S', OPTION_NAME, "ID", 1, 128, .max_times = 256,
        PLACE(sessions), .help = "this session; up to 256 times"},
    {"tenant", 'T', OPTION_NAME, "TENANT", 0, 128, PLACE(tenant),
        .help = "with --session or another target: of this\n"
                "tenant; alone: every session of it"},
    {"prefix-tokens", '\0', OPTION_NAME, "1,2,3", 0, 1 << 24,
        PLACE(prefix_tokens),
        .help = "sessions whose conversation begins with these\n"
                "tokens"},
    {"idle", '\0', OPTION_DURATION, "DURATION", PLACE(idle_ns),
        .help = "sessions that have been idle for longer"},
    {"bytes", '\0', OPTION_COUNT, "N", 1, UINT64_MAX, PLACE(bytes),
        .help = "as many as it takes to free this, in the order\n"
                "of the policy"},
    {"all", '\0', OPTION_FLAG, PLACE(all),
        .help = "every session of every tenant"},
    {"preempt", '\0', OPTION_FLAG, PLACE(preempt),
        .help = "running ones too: they pause and are recomputed"},
    {"forget", '\0', OPTION_FLAG, PLACE(forget),
        .help = "their tokens too: they begin from nothing"},
    {"dry-run", '\0', OPTION_FLAG, PLACE(dry_run),
        .help = "say what would be done, and do nothing"},
    {"request-id", '\0', OPTION_NAME, "ID", 1, 64, PLACE(request_id),
        .help = "given again, the first answer comes again, and\n"
                "nothing more is evicted"},
    {"wait", '\0', OPTION_CHOICE, "applied|durable",
        .first_choice = OPTION_WAIT_APPLIED, PLACE(wait),
        .help = "answer when receipts are numbered, or when they\n"
                "survive a crash (default)"},
    {"max", '\0', OPTION_COUNT, "N", 1, 10000, PLACE(max_sessions),
        .help = "at most this many sessions; default 1000"},
};

static const struct option_spec retain_options[] = {
    {"session", 'S', OPTION_NAME, "ID", 1, 128, .max_times = 256,
        PLACE(sessions), .help = "of this session; up to 256 times"},
    TENANT,
    {"idle-ttl", '\0', OPTION_SET_DURATION, "DURATION", PLACE(idle_ttl),
        .help = "evict it this long after its last use; 0: never"},
    {"ttl", '\0', OPTION_SET_DURATION, "DURATION", PLACE(absolute_ttl),
        .help = "evict it this long after its creation, used or\n"
                "not; 0: never"},
    {"priority", '\0', OPTION_SET_COUNT, "N", 0, 100, PLACE(priority),
        .help = "0 (goes first) to 100; 50 at first"},
    {"pin", '\0', OPTION_SET_DURATION, "DURATION", PLACE(pin),
        .help = "hold its blocks for this long from now; 0 unpins"},
    {"lease", '\0', OPTION_NAME, "NAME=DURATION", 1, 256, PLACE(lease),
        .help = "hold them for this reader; the same name renews,\n"
                "NAME=0 gives up"},
};

static const struct option_spec tail_options[] = {
    {"from", '\0', OPTION_NAME, "PLACE", 1, 64, PLACE(from),
        .help = "latest (default); earliest; snapshot, the state\n"
                "and its sessions first; N, the receipt to begin\n"
                "with; or after:N, the one behind it"},
    {"kind", 'k', OPTION_NAME, "KIND", 1, 64, .max_times = 7, PLACE(kinds),
        .help = "only receipts of this kind: eviction,\n"
                "eviction_batch, pool_snapshot, lifecycle,\n"
                "allocation, recomputation, release"},
    {"reason", 'r', OPTION_NAME, "REASON", 1, 64, .max_times = 6,
        PLACE(reasons),
        .help = "only for this reason: manual, lru, ttl, quota,\n"
                "pressure, shutdown"},
    {"session", 'S', OPTION_NAME, "ID", 1, 128, .max_times = 64,
        PLACE(sessions), .help = "only about this session; up to 64 times"},
    {"tenant", 'T', OPTION_NAME, "TENANT", 0, 128, .max_times = 64,
        PLACE(tenants),
        .help = "with --session: of this tenant; alone: only\n"
                "about it, up to 64 times"},
    {"lossy", '\0', OPTION_FLAG, PLACE(lossy),
        .help = "leave receipts out, and say which, rather than\n"
                "fall far behind"},
    {"limit", 'n', OPTION_COUNT, "N", 1, UINT64_MAX, PLACE(limit),
        .help = "end after this many"},
    {"max-batch", '\0', OPTION_COUNT, "N", 1, 1024, PLACE(max_batch),
        .help = "receipts in one message at most; default 256"},
    {"no-reconnect", '\0', OPTION_FLAG, PLACE(no_reconnect),
        .help = "end when the connection does"},
};

static const struct option_spec audit_options[] = {
    {"file", 'f', OPTION_TEXT, "FILE", 1, 4096, PLACE(file),
        .help = "JSON lines of 'receipts tail -o jsonl' instead\n"
                "of a server's receipts; - is stdin"},
};

static const struct option_spec export_options[] = {
    {"from", '\0', OPTION_COUNT, "N", 1, UINT64_MAX, PLACE(first),
        .help = "begin with receipt N; default the oldest there is"},
    {"to", '\0', OPTION_COUNT, "N", 1, UINT64_MAX, PLACE(last),
        .help = "end with receipt N; default the last durable one"},
    {"out", '\0', OPTION_TEXT, "FILE", 1, 4096, PLACE(out_file),
        .help = "into this file, which is there whole or not at\n"
                "all, instead of the output"},
};

#define KEY                                                                    \
    {                                                                          \
        "key", 'k', OPTION_NAME, "KEY", 1, 256, PLACE(key),                    \
            .help = "the key that must have signed: name+id+base64, as\n"      \
                    "the server's log says it at its start"                    \
    }

static const struct option_spec checkpoint_options[] = {KEY};

static const struct option_spec verify_options[] = {
    KEY,
    {"old", '\0', OPTION_TEXT, "FILE", 1, 4096, PLACE(old_file),
        .help = "an older checkpoint, that this ledger must go on\n"
                "from without a change"},
    {"new", '\0', OPTION_TEXT, "FILE", 1, 4096, PLACE(new_file),
        .help = "with --old: compare these two checkpoints by a\n"
                "proof, and look at no receipts"},
    {"witness-key", '\0', OPTION_NAME, "KEY", 1, 256, PLACE(witness_key),
        .help = "this witness must have cosigned --old, and --new\n"
                "where it is given"},
    {"stats", '\0', OPTION_FLAG, PLACE(stats),
        .help = "how long it took, on stderr"},
};

static const struct option_spec witness_options[] = {
    KEY,
    {"signing-key", '\0', OPTION_TEXT, "FILE", 1, 4096, PLACE(signing_key),
        .help = "the witness's private key; made if it is not there"},
    {"name", '\0', OPTION_NAME, "NAME", 1, 128, PLACE(name),
        .help = "of a key that is made; default kvpool-witness"},
    {"state", '\0', OPTION_TEXT, "FILE", 1, 4096, PLACE(state_file),
        .help = "what was cosigned last, of each ledger"},
    {"out", '\0', OPTION_TEXT, "FILE", 1, 4096, PLACE(out_file),
        .help = "the cosigned note goes there, not to the output"},
    {"watch", '\0', OPTION_FLAG, PLACE(watch),
        .help = "go on for ever, as the ledger grows"},
    {"interval", '\0', OPTION_DURATION, "DURATION", PLACE(interval_ns),
        .help = "with --watch: between two looks; default 10s"},
};

const struct command commands[] = {
    {"ping", "", 0, "ask whether the server serves",
        "Asks grpc.health.v1 and measures the round trip. Ends with 0 only if "
        "the\nserver is SERVING; with 4 if it answers anything else.\n",
        TABLE(ping_options), cmd_ping},
    {"describe", "", 0, "the model, its memory, limits and the ledger",
        "What the server is and what it holds.\n", {NULL, 0}, cmd_describe},
    {"generate", "[PROMPT | -]", 1, "continue a text or a conversation",
        "The text is printed as it comes. '-' reads the prompt from stdin. "
        "Without a\nPROMPT a session goes on where it ended. Ctrl-C cancels; "
        "the session keeps\nwhat was generated.\n",
        TABLE(generate_options), cmd_generate},
    {"tokenize", "TEXT | -", 1, "text to tokens", "'-' reads stdin.\n",
        TABLE(tokenize_options), cmd_tokenize},
    {"detokenize", "TOKEN...", OPTION_LIST_MAX, "tokens to text",
        "Numbers, apart or as 1,2,3.\n", TABLE(detokenize_options),
        cmd_detokenize},
    {"sessions", "", 0, "list the sessions",
        "By tenant and session, page by page.\n", TABLE(sessions_options),
        cmd_sessions},
    {"snapshot", "", 0, "the state of the pool at one instant",
        "Sizes, counts and ratios. With json all of the contract's "
        "PoolSnapshot.\n",
        TABLE(snapshot_options), cmd_snapshot},
    {"evict", "", 0, "give up blocks of sessions now",
        "One of --session, --prefix-tokens, --idle, --bytes, --tenant or --all "
        "is\nneeded. Evicted sessions keep their tokens and are recomputed "
        "when they come\nback. Ends with 4 if nothing was evicted or, with "
        "--forget,\nforgotten.\n",
        TABLE(evict_options), cmd_evict},
    {"retain", "", 0, "say how long sessions stay",
        "Sets what is given, for each --session, and shows what is in force "
        "then;\nwithout a setting, what is in force now. More than the server "
        "allows is\nCLIPPED to what it does. Ends with 4 if a session is "
        "missing or its change was\nrejected.\n",
        TABLE(retain_options), cmd_retain},
    {"receipts tail", "", 0, "follow the receipts",
        "One line for each receipt, in order. When the connection is lost it "
        "comes back\nby itself and goes on after the last one, without a "
        "duplicate or a hole; with\n--timeout it gives up when the server was "
        "away for so long. Conditions of one\nkind add up, those of several "
        "kinds must all hold.\n",
        TABLE(tail_options), cmd_receipts_tail},
    {"receipts export", "[DIR]", 1, "receipts as JSON lines",
        "From a server, or from DIR: a data_dir, or a copy of one. One JSON "
        "object a\nline, in order, each receipt once.\n",
        TABLE(export_options), cmd_receipts_export},
    {"receipts audit", "[DIR]", 1, "check that the receipts add up",
        "Reads every receipt up to now, of a server or in DIR (a data_dir, or "
        "a copy\nof one), and checks numbers, differences, counters and batch "
        "sums. Ends with 1\nand names the receipt that does not fit.\n",
        TABLE(audit_options), cmd_receipts_audit},
    {"receipts checkpoint", "", 0, "the newest signed checkpoint",
        "Prints it as a C2SP signed note, to be kept and compared later "
        "('receipts\nverify --old'). Without --key its key is the server's "
        "own word.\n",
        TABLE(checkpoint_options), cmd_receipts_checkpoint},
    {"receipts verify", "[DIR]", 1, "check that the receipts are those signed",
        "Of a server: takes a checkpoint of now, checks its signature, reads "
        "every\nreceipt that is still there, and computes the hash that was "
        "signed. In DIR (a\ndata_dir, or a copy of one): the same with every "
        "checkpoint that is kept, and\nwith the tree of hashes. Ends with 5 "
        "if something is not as it was signed, and\nsays what.\n",
        TABLE(verify_options), cmd_receipts_verify},
    {"receipts witness", "", 0, "cosign checkpoints that only ever grow",
        "Takes the server's checkpoint, demands proof that the last one which "
        "this\nwitness cosigned is a prefix of it, and adds its own signature "
        "and the time\n(C2SP tlog-cosignature). A ledger that was rewritten "
        "or set back is not\ncosigned: it ends with 5.\n",
        TABLE(witness_options), cmd_receipts_witness},
};
const size_t n_commands = sizeof commands / sizeof *commands;
