#include "engine/tokenizer_split.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "base/heap.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* The patterns are those that the models were trained with, as Hugging Face and
 * llama.cpp publish them, in an equal form that looks at each character a fixed
 * number of times: what is repeated is possessive (++), so nothing is tried
 * twice. A match may moreover take only so many steps for each byte.
 *
 * Spaces are Unicode's White_Space, which is not what \s is to PCRE2 (it has
 * U+180E too). */
#define SPACE "\\t-\\r\\x{85}\\p{Z}"
#define BLANK "\\t\\x0B\\f\\x{85}\\p{Z}" /* a space, but no end of line */

/* Spaces up to the last of a run, which goes with the word behind it. The
 * published \s+(?!\S)|\s+, where the second can only be one space. */
#define SPACES "[" SPACE "]+(?![^" SPACE "])|[" SPACE "]"

/* \s*[\r\n]+ */
#define LINES "(?:[" BLANK "]*+[\\r\\n]++)++"

#define GPT2                                                                   \
    "'(?:[stmd]|re|ve|ll)"                                                     \
    "| ?\\p{L}++| ?\\p{N}++| ?[^" SPACE "\\p{L}\\p{N}]++|" SPACES

/* By its pattern of digits. */
#define LLAMA3(digits)                                                         \
    "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"                               \
    "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}++|" digits "| ?[^" SPACE                    \
    "\\p{L}\\p{N}]++[\\r\\n]*+|" LINES "|" SPACES

/* Letters that begin a word, and those that go on with it; those without case
 * do either. */
#define BEGINNING "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define GOING_ON "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define NO_LETTER "[^\\r\\n\\p{L}\\p{N}]?"
#define TEKKEN                                                                 \
    NO_LETTER BEGINNING "*" GOING_ON "++|" NO_LETTER BEGINNING "++"            \
                        "|\\p{N}| ?[^" SPACE                                   \
                        "\\p{L}\\p{N}]++[\\r\\n/]*+|" LINES "|" SPACES

#define DEEPSEEK_LETTERS                                                       \
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}"              \
    "\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}"                      \
    "\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}"       \
    "\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}"              \
    "\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}"                      \
    "\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}"                \
    "\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}"                \
    "\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}"                \
    "\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}"                \
    "\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}\\x{1F5F}-\\x{1F7D}"        \
    "\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}"       \
    "\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}"                \
    "\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}"       \
    "\\x{2107}\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}"        \
    "\\x{2126}\\x{2128}\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}"        \
    "\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}"        \
    "\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}\\x{2CF2}"       \
    "\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}"       \
    "\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}"                \
    "\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}"                \
    "\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}"            \
    "\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}"          \
    "\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}"
#define DEEPSEEK_EAST_ASIAN                                                    \
    "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]++"

#define BPE(name) (name), ("bpe/" name)

static const char *const default_patterns[] = {
    "[\\p{P}$+<=>^~|]++", GPT2, "\\p{N}++", "[0-9][0-9][0-9]", NULL};
static const char *const gpt2_patterns[] = {GPT2, NULL};
static const char *const digit_gpt2_patterns[] = {"\\p{N}", GPT2, NULL};
static const char *const falcon_patterns[] = {
    "[\\p{P}$+<=>^~|`]++", GPT2, "[0-9][0-9][0-9]", NULL};
static const char *const llama3_patterns[] = {LLAMA3("\\p{N}{1,3}+"), NULL};
static const char *const tekken_patterns[] = {TEKKEN, NULL};
static const char *const qwen2_patterns[] = {LLAMA3("\\p{N}"), NULL};
static const char *const deepseek_llm_patterns[] = {"[\\r\\n]",
    "[" SPACE "]?[" DEEPSEEK_LETTERS "]++",
    "[" SPACE "]?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}"
    "\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]++",
    "(?<![" SPACE "])[" SPACE "]++\\z", DEEPSEEK_EAST_ASIAN, "\\p{N}++", NULL};
static const char *const deepseek_coder_patterns[] = {"[\\r\\n]",
    "[" SPACE "]?\\p{L}++", "[" SPACE "]?\\p{P}++", DEEPSEEK_EAST_ASIAN,
    "\\p{N}", NULL};

/* llama-bpe takes a word that is a token as it is, and begins with the
 * beginning-of-text token, if the file does not say otherwise. */
static const struct pre_tokenizer pre_tokenizers[] = {
    {BPE("default"), default_patterns, false, false},
    {BPE("gpt-2"), gpt2_patterns, false, false},
    {BPE("phi-2"), gpt2_patterns, false, false},
    {BPE("mpt"), gpt2_patterns, false, false},
    {BPE("olmo"), gpt2_patterns, false, false},
    {BPE("llama-bpe"), llama3_patterns, true, true},
    {BPE("llama3"), llama3_patterns, true, true},
    {BPE("llama-v3"), llama3_patterns, true, true},
    {BPE("falcon3"), llama3_patterns, true, true},
    {BPE("pixtral"), llama3_patterns, true, true},
    {BPE("dbrx"), llama3_patterns, false, false},
    {BPE("smaug-bpe"), llama3_patterns, false, false},
    {BPE("tekken"), tekken_patterns, true, true},
    {BPE("qwen2"), qwen2_patterns, false, false},
    {BPE("deepseek-r1-qwen"), qwen2_patterns, false, false},
    {BPE("stablelm2"), qwen2_patterns, false, false},
    {BPE("megrez"), qwen2_patterns, false, false},
    {BPE("smollm"), digit_gpt2_patterns, false, false},
    {BPE("starcoder"), digit_gpt2_patterns, false, false},
    {BPE("refact"), digit_gpt2_patterns, false, false},
    {BPE("command-r"), digit_gpt2_patterns, false, false},
    {BPE("minerva-7b"), digit_gpt2_patterns, false, false},
    {BPE("falcon"), falcon_patterns, false, false},
    {BPE("deepseek-llm"), deepseek_llm_patterns, false, false},
    {BPE("deepseek-coder"), deepseek_coder_patterns, false, false},
};

const struct pre_tokenizer *pre_tokenizer_find(struct gguf_string name)
{
    for (size_t i = 0; i < sizeof pre_tokenizers / sizeof *pre_tokenizers; i++)
        if (strlen(pre_tokenizers[i].name) == name.n &&
            memcmp(pre_tokenizers[i].name, name.data, name.n) == 0)
            return &pre_tokenizers[i];
    return NULL;
}

struct splitter {
    pcre2_general_context *memory;
    size_t n_levels;
    pcre2_code *levels[SPLITTER_MAX_LEVELS];
};

static void *pcre_allocate(size_t n, void *unused)
{
    (void)unused;
    return kv_calloc(1, n);
}

static void pcre_release(void *memory, void *unused)
{
    (void)unused;
    kv_free(memory);
}

/* Without memory that may be written and run there is no JIT; matching is then
 * slower, and nothing else. */
static enum kv_status compile(
    struct splitter *splitter, const char *pattern, struct kv_error *error)
{
    pcre2_compile_context *context =
        pcre2_compile_context_create(splitter->memory);
    pcre2_code *code;
    PCRE2_SIZE at;
    int reason;

    if (context == NULL)
        return kv_error_set(
            error, KV_NO_MEMORY, "no memory for a pre-tokenizer");
    code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
        PCRE2_UTF | PCRE2_UCP, &reason, &at, context);
    pcre2_compile_context_free(context);
    if (code == NULL && reason == PCRE2_ERROR_HEAP_FAILED)
        return kv_error_set(
            error, KV_NO_MEMORY, "no memory for a pre-tokenizer");
    if (code == NULL)
        return kv_error_set(error, KV_UNSUPPORTED,
            "this PCRE2 cannot do a pre-tokenizer: error %d at %zu of %s",
            reason, (size_t)at, pattern);
    splitter->levels[splitter->n_levels++] = code;
    (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    return KV_OK;
}

enum kv_status splitter_open(struct splitter **out,
    const struct pre_tokenizer *pre_tokenizer, struct kv_error *error)
{
    struct splitter *splitter = kv_calloc(1, sizeof *splitter);
    enum kv_status status = KV_OK;

    if (splitter != NULL)
        splitter->memory =
            pcre2_general_context_create(pcre_allocate, pcre_release, NULL);
    if (splitter == NULL || splitter->memory == NULL) {
        kv_free(splitter);
        return kv_error_set(
            error, KV_NO_MEMORY, "no memory for a pre-tokenizer");
    }
    for (size_t i = 0; status == KV_OK && pre_tokenizer->patterns[i] != NULL;
         i++) {
        assert(i < SPLITTER_MAX_LEVELS);
        status = compile(splitter, pre_tokenizer->patterns[i], error);
    }
    if (status != KV_OK) {
        splitter_close(splitter);
        return status;
    }
    *out = splitter;
    return KV_OK;
}

void splitter_close(struct splitter *splitter)
{
    if (splitter == NULL)
        return;
    for (size_t i = 0; i < splitter->n_levels; i++)
        pcre2_code_free(splitter->levels[i]);
    pcre2_general_context_free(splitter->memory);
    kv_free(splitter);
}

size_t splitter_bytes(const struct splitter *splitter)
{
    size_t n = sizeof *splitter;

    for (size_t i = 0; i < splitter->n_levels; i++) {
        size_t read = 0, made = 0;

        (void)pcre2_pattern_info(splitter->levels[i], PCRE2_INFO_SIZE, &read);
        (void)pcre2_pattern_info(
            splitter->levels[i], PCRE2_INFO_JITSIZE, &made);
        n += read + made;
    }
    return n;
}

struct split {
    const struct splitter *splitter;
    pcre2_match_context *limits;
    pcre2_match_data *match;
    splitter_word_cb on_word;
    void *context;
};

/* Sets *begin and *end, both n if there is no match from `from` on. */
static enum kv_status find_match(const struct split *split, size_t level,
    const char *text, size_t n, size_t from, size_t *begin, size_t *end)
{
    int found = pcre2_match(split->splitter->levels[level], (PCRE2_SPTR)text, n,
        from, PCRE2_NO_UTF_CHECK, split->match, split->limits);
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(split->match);

    *begin = n;
    *end = n;
    if (found == PCRE2_ERROR_NOMATCH)
        return KV_OK;
    if (found == PCRE2_ERROR_NOMEMORY)
        return KV_NO_MEMORY;
    if (found < 0)
        return KV_LIMIT;
    assert(ends[0] < ends[1]);
    *begin = ends[0];
    *end = ends[1];
    return KV_OK;
}

/* What a level matches, and what lies between, goes to the next one. So the
 * depth is the number of levels. */
static enum kv_status split_level(/* NOLINT(misc-no-recursion) */
    const struct split *split, size_t level, const char *text, size_t n)
{
    enum kv_status status = KV_OK;
    size_t at = 0, begin, end;

    if (n == 0)
        return KV_OK;
    if (level == split->splitter->n_levels)
        return split->on_word(split->context, text, n);
    while (at < n && status == KV_OK) {
        status = find_match(split, level, text, n, at, &begin, &end);
        if (status == KV_OK)
            status = split_level(split, level + 1, text + at, begin - at);
        if (status == KV_OK)
            status = split_level(split, level + 1, text + begin, end - begin);
        at = end;
    }
    return status;
}

enum kv_status splitter_split(const struct splitter *splitter, const char *text,
    size_t n, splitter_word_cb on_word, void *context)
{
    struct split split = {
        .splitter = splitter, .on_word = on_word, .context = context};
    size_t n_steps = 1000 + 8 * n;
    enum kv_status status = KV_NO_MEMORY;

    split.limits = pcre2_match_context_create(splitter->memory);
    split.match = pcre2_match_data_create(1, splitter->memory);
    if (split.limits != NULL && split.match != NULL) {
        pcre2_set_match_limit(split.limits,
            n_steps > UINT32_MAX ? UINT32_MAX : (uint32_t)n_steps);
        status = split_level(&split, 0, text, n);
    }
    pcre2_match_data_free(split.match);
    pcre2_match_context_free(split.limits);
    return status;
}
