/* SPDX-License-Identifier: Apache-2.0 */
/* What each known template makes of messages; the templates themselves, run by Jinja2, are beside
 * it in tests/oracle/templates.py. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../../engine/text/tok_render.h"

static const struct kve_chat_message talk[] = {
    {"system", " Be kind. "},
    {"user", " Hi\n"},
    {"assistant", "<think>\nHm\n</think>\n\nHello."},
    {"user", "\xe3\x80\x80Sum?\t"},
    {"tool", "1"},
    {"tool", "2"},
    {"assistant", "a</think>3"},
};
#define TALK (sizeof(talk) / sizeof(talk[0]))

/* The prompt of talk[first .. first+count-1], or the reason why there is none. */
static void expect(kve_render *render, const char *system, size_t first, size_t count,
                   const char *prompt)
{
    const struct kve_chat_messages m = {talk + first, count};
    struct kve_text out = {0};
    const char *reason = render(&out, system, &m);

    kve_text_put(&out, "", 1);
    cr_assert_not(out.failed);
    cr_expect_str_eq(reason != NULL ? reason : out.at, prompt);
    free(out.at);
}

Test(chat, chatml)
{
    expect(kve_render_chatml, "S.", 1, 1,
           "<|im_start|>system\nS.<|im_end|>\n<|im_start|>user\n Hi\n<|im_end|>\n"
           "<|im_start|>assistant\n");
    expect(kve_render_chatml, "S.", 0, 2,
           "<|im_start|>system\n Be kind. <|im_end|>\n<|im_start|>user\n Hi\n<|im_end|>\n"
           "<|im_start|>assistant\n");
    expect(kve_render_chatml, NULL, 0, 0, "<|im_start|>assistant\n");
}

Test(chat, qwen25)
{
    expect(kve_render_qwen25, "S.", 3, 3,
           "<|im_start|>system\nS.<|im_end|>\n<|im_start|>user\n\xe3\x80\x80Sum?\t<|im_end|>\n"
           "<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n"
           "</tool_response><|im_end|>\n<|im_start|>assistant\n");
    expect(kve_render_qwen25, "S.", 0, 0, "there are none");
}

Test(chat, qwen3_keeps_thoughts_behind_the_last_question_alone)
{
    expect(kve_render_qwen3, NULL, 0, TALK,
           "<|im_start|>system\n Be kind. <|im_end|>\n<|im_start|>user\n Hi\n<|im_end|>\n"
           "<|im_start|>assistant\nHello.<|im_end|>\n"
           "<|im_start|>user\n\xe3\x80\x80Sum?\t<|im_end|>\n"
           "<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n"
           "</tool_response><|im_end|>\n"
           "<|im_start|>assistant\n<think>\na\n</think>\n\n3<|im_end|>\n<|im_start|>assistant\n");
}

Test(chat, gemma)
{
    expect(kve_render_gemma, NULL, 0, 2,
           "<start_of_turn>user\n Be kind. \n\nHi<end_of_turn>\n<start_of_turn>model\n");
    expect(kve_render_gemma, NULL, 1, 3,
           "<start_of_turn>user\nHi<end_of_turn>\n"
           "<start_of_turn>model\n<think>\nHm\n</think>\n\nHello.<end_of_turn>\n"
           "<start_of_turn>user\nSum?<end_of_turn>\n<start_of_turn>model\n");
    expect(kve_render_gemma, NULL, 2, 2,
           "the user and the assistant must take turns, the user first");
}

Test(chat, llama3)
{
    expect(kve_render_llama3, NULL, 0, 2,
           "<|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
           "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
           "<|start_header_id|>assistant<|end_header_id|>\n\n");
}
