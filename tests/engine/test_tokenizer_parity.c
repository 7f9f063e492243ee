/* The ids that llama.cpp gives for the prompts of the demo model, and, where
 * the reference models are there (KVPOOL_MODELS), for theirs and for a list of
 * awkward texts. */
#include <glob.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/heap.h"
#include "engine/tokenizer.h"
#include "tests/support/check_main.h"

struct vocabulary {
    struct gguf *gguf;
    struct tokenizer *tokenizer;
};

static struct vocabulary open_vocabulary(const char *path)
{
    struct vocabulary vocabulary;
    struct kv_error error = {KV_OK, ""};
    struct gguf_array tokens;

    ck_assert_msg(
        gguf_open(&vocabulary.gguf, path, &error) == KV_OK, "%s", error.text);
    ck_assert_int_eq(gguf_get_array(vocabulary.gguf, "tokenizer.ggml.tokens",
                         GGUF_STRINGS, &tokens, &error),
        KV_OK);
    ck_assert_msg(tokenizer_open(&vocabulary.tokenizer, vocabulary.gguf,
                      (uint32_t)tokens.n, &error) == KV_OK,
        "%s", error.text);
    return vocabulary;
}

static void close_vocabulary(struct vocabulary vocabulary)
{
    tokenizer_close(vocabulary.tokenizer);
    gguf_close(vocabulary.gguf);
}

static size_t check_cases(const char *model, json_t *cases)
{
    struct vocabulary vocabulary = open_vocabulary(model);

    for (size_t i = 0; i < json_array_size(cases); i++) {
        json_t *one = json_array_get(cases, i);
        json_t *wanted = json_object_get(one, "prompt_ids");
        const char *prompt = json_string_value(json_object_get(one, "prompt"));
        uint32_t *ids;
        size_t n;

        ck_assert_int_eq(tokenizer_encode(vocabulary.tokenizer, prompt,
                             strlen(prompt), TOKENIZER_ADD_BOS, &ids, &n),
            KV_OK);
        ck_assert_uint_eq(n, json_array_size(wanted));
        for (size_t j = 0; j < n; j++)
            ck_assert_int_eq(
                ids[j], json_integer_value(json_array_get(wanted, j)));
        kv_free(ids);
    }
    close_vocabulary(vocabulary);
    return json_array_size(cases);
}

static json_t *load_json(const char *path)
{
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error);

    ck_assert_msg(root != NULL, "%s: %s", path, error.text);
    return root;
}

START_TEST(the_demo_models_prompts_have_the_expected_ids)
{
    json_t *root = load_json(DEMO_DIR "/expected.json");
    json_t *first = json_array_get(json_object_get(root, "models"), 0);

    ck_assert_uint_ge(
        check_cases(DEMO_DIR "/demo.gguf", json_object_get(first, "cases")), 8);
    json_decref(root);
}
END_TEST

START_TEST(a_demo_text_comes_back_from_its_tokens)
{
    static const char text[] = "What is a r\xC3\xAFver? \xF0\x9F\x98\x80\n  x";
    struct vocabulary demo = open_vocabulary(DEMO_DIR "/demo.gguf");
    char back[100];
    uint32_t *ids;
    size_t n, n_back = 0;

    ck_assert_int_eq(
        tokenizer_encode(demo.tokenizer, text, sizeof text - 1, 0, &ids, &n),
        KV_OK);
    for (size_t i = 0; i < n; i++) {
        struct gguf_string piece = tokenizer_piece(demo.tokenizer, ids[i]);

        memcpy(back + n_back, piece.data, piece.n);
        n_back += piece.n;
    }
    kv_free(ids);
    ck_assert_uint_eq(n_back, sizeof text);
    ck_assert_int_eq(back[0], ' ');
    ck_assert_mem_eq(back + 1, text, sizeof text - 1);
    close_vocabulary(demo);
}
END_TEST

/* Where the reference models lie, or NULL. */
static const char *models_folder(void)
{
    const char *folder = getenv("KVPOOL_MODELS");

    if (folder != NULL && *folder != '\0')
        return folder;
    printf("skipped: no models\n");
    return NULL;
}

START_TEST(the_reference_models_prompts_have_the_expected_ids)
{
    static const char *const models[] = {"bitllama-3M-f32", "stories260K-f32"};
    const char *folder = models_folder();

    for (size_t i = 0; folder != NULL && i < 2; i++) {
        char model[512], expected[512];
        json_t *root;

        snprintf(model, sizeof model, "%s/%s.gguf", folder, models[i]);
        snprintf(expected, sizeof expected, "%s/expected/%s.kv-f32.json",
            folder, models[i]);
        root = load_json(expected);
        ck_assert_uint_ge(
            check_cases(model, json_object_get(root, "cases")), 5);
        json_decref(root);
    }
}
END_TEST

static char *read_text(const char *gguf, const char *suffix)
{
    char path[512], *text;
    FILE *file;
    size_t n;

    snprintf(path, sizeof path, "%s%s", gguf, suffix);
    file = fopen(path, "rb");
    ck_assert_msg(file != NULL, "%s", path);
    text = calloc(1, 1 << 16);
    ck_assert_ptr_nonnull(text);
    n = fread(text, 1, (1 << 16) - 1, file);
    ck_assert_uint_gt(n, 0);
    fclose(file);
    return text;
}

/* One line of ids, as `.out` has it. */
static void check_line(const struct tokenizer *tokenizer, const char *text,
    size_t n_text, const char *line)
{
    uint32_t *ids;
    size_t n;
    char *end;

    ck_assert_int_eq(
        tokenizer_encode(tokenizer, text, n_text, 0, &ids, &n), KV_OK);
    for (size_t i = 0; i < n; i++) {
        ck_assert_uint_eq(ids[i], strtoul(line, &end, 10));
        ck_assert_ptr_ne(end, line);
        line = end;
    }
    ck_assert_uint_eq(strspn(line, " "), strcspn(line, "\n"));
    kv_free(ids);
}

/* A vocabulary with its texts beside it, `.inp`, and the ids, `.out`. */
static void check_vocabulary(const char *gguf)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    const char *text, *line, *next;
    char *texts = read_text(gguf, ".inp"), *lines = read_text(gguf, ".out");
    struct vocabulary vocabulary = open_vocabulary(gguf);
    size_t n_checked = 0;

    for (text = texts, line = lines; (next = strstr(text, separator)) != NULL;
         n_checked++) {
        check_line(vocabulary.tokenizer, text, (size_t)(next - text), line);
        text = next + strlen(separator);
        line = strchr(line, '\n') + 1;
    }
    ck_assert_uint_ge(n_checked, 40);
    free(lines);
    free(texts);
    close_vocabulary(vocabulary);
}

/* Every one that is there, whatever there will be. */
START_TEST(awkward_texts_have_the_ids_of_llama_cpp)
{
    const char *folder = models_folder();
    char pattern[512];
    glob_t found;

    if (folder == NULL)
        return;
    snprintf(pattern, sizeof pattern, "%s/vocab/ggml-vocab-*.gguf", folder);
    ck_assert_int_eq(glob(pattern, 0, NULL, &found), 0);
    ck_assert_uint_ge(found.gl_pathc, 4);
    for (size_t i = 0; i < found.gl_pathc; i++)
        check_vocabulary(found.gl_pathv[i]);
    globfree(&found);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        the_demo_models_prompts_have_the_expected_ids,
        a_demo_text_comes_back_from_its_tokens,
        the_reference_models_prompts_have_the_expected_ids,
        awkward_texts_have_the_ids_of_llama_cpp,
    };

    return CHECK_RUN("tokenizer_parity", NULL, NULL, tests);
}
