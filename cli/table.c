#include "cli/table.h"

#include <assert.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include "base/heap.h"
#include "base/utf8.h"

/* Characters, which is what a terminal shows of most scripts. */
static size_t width_of(const char *text)
{
    size_t n = 0;

    for (; *text != '\0'; text++)
        n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

static bool reserve(struct table *table)
{
    size_t capacity = table->capacity == 0 ? 64 : 2 * table->capacity;
    char **cells;

    if (table->n_cells < table->capacity)
        return true;
    cells = kv_realloc(table->cells, capacity * sizeof *cells);
    if (cells == NULL)
        return false;
    table->cells = cells;
    table->capacity = capacity;
    return true;
}

void table_cell(struct table *table, const char *format, ...)
{
    size_t column = table->n_cells % table->n_columns;
    char text[1100]; /* two names and a slash */
    char *cell;
    va_list args;

    assert(table->n_columns <= TABLE_COLUMNS_MAX);
    if (table->failed)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    cell = kv_strdup(text);
    if (cell == NULL || !reserve(table)) {
        kv_free(cell);
        table->failed = true;
        return;
    }
    table->cells[table->n_cells++] = cell;
    if (width_of(text) > table->widths[column])
        table->widths[column] = width_of(text);
}

static void print_row(
    const struct table *table, FILE *out, const char *const *cells)
{
    for (size_t i = 0; i < table->n_columns; i++) {
        bool right = table->titles[i][0] == '>';
        bool last = i + 1 == table->n_columns;
        size_t n = width_of(cells[i]);
        int fill = (int)(table->widths[i] > n ? table->widths[i] - n : 0);

        fprintf(out, "%s%*s%s%*s", i > 0 ? "  " : "", right ? fill : 0, "",
            cells[i], right || last ? 0 : fill, "");
    }
    fputc('\n', out);
}

static void print_titles(struct table *table, FILE *out)
{
    const char *titles[TABLE_COLUMNS_MAX];

    for (size_t i = 0; i < table->n_columns; i++) {
        titles[i] = table->titles[i] + (table->titles[i][0] == '>');
        if (width_of(titles[i]) > table->widths[i])
            table->widths[i] = width_of(titles[i]);
    }
    print_row(table, out, titles);
    table->titled = true;
}

enum kv_status table_flush(struct table *table, FILE *out)
{
    if (table->failed)
        return KV_NO_MEMORY;
    assert(table->n_cells % table->n_columns == 0);
    if (!table->titled)
        print_titles(table, out);
    for (size_t i = 0; i < table->n_cells; i += table->n_columns)
        print_row(table, out, (const char *const *)table->cells + i);
    for (size_t i = 0; i < table->n_cells; i++)
        kv_free(table->cells[i]);
    table->n_cells = 0;
    return KV_OK;
}

void table_fini(struct table *table)
{
    for (size_t i = 0; i < table->n_cells; i++)
        kv_free(table->cells[i]);
    kv_free(table->cells);
}
