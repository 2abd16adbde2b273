// Calls to a model by an official SDK for Go: a turn with a tool, and another one as streams.
//
//	CLIENT BASE
//
// CLIENT is openai or anthropic. Says what it got. SSL_CERT_FILE names the certificate.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/anthropics/anthropic-sdk-go/v2"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/v2/option"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
)

const (
	name   = "get_weather"
	ask    = `get_weather {"city":"Lisbon"}, please`
	result = "sunny in Lisbon"
)

var city = map[string]any{"city": map[string]any{"type": "string"}}
var schema = map[string]any{"type": "object", "properties": city, "required": []string{"city"}}

func main() {
	client, base := os.Args[1], os.Args[2]
	for _, stream := range []bool{false, true} {
		switch client {
		case "openai":
			withOpenAI(base, stream)
		case "anthropic":
			withAnthropic(base, stream)
		}
	}
}

func withOpenAI(base string, stream bool) {
	ctx := context.Background()
	client := openai.NewClient(option.WithBaseURL(base+"/v1"), option.WithAPIKey("sk-test-0123456789"))
	asked := openai.ChatCompletionNewParams{
		Model:    "gpt-4o-mini",
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(ask)},
		Tools: []openai.ChatCompletionToolUnionParam{
			openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{Name: name, Parameters: schema}),
		},
	}
	if stream {
		asked.StreamOptions.IncludeUsage = openai.Bool(true)
	}
	turn(func() bool {
		var answer *openai.ChatCompletion
		if stream {
			var whole openai.ChatCompletionAccumulator
			events := client.Chat.Completions.NewStreaming(ctx, asked)
			for events.Next() {
				whole.AddChunk(events.Current())
			}
			must(events.Err())
			answer = &whole.ChatCompletion
		} else {
			var err error
			answer, err = client.Chat.Completions.New(ctx, asked)
			must(err)
		}
		said := answer.Choices[0].Message
		asked.Messages = append(asked.Messages, said.ToParam())
		for _, call := range said.ToolCalls {
			asked.Messages = append(asked.Messages, openai.ToolMessage(result, call.ID))
		}
		return tell(said.Content, len(said.ToolCalls))
	})
	if !stream {
		return
	}
	events := client.Responses.NewStreaming(ctx, responses.ResponseNewParams{
		Model: "gpt-4o-mini",
		Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(ask)},
		Tools: []responses.ToolUnionParam{{OfFunction: &responses.FunctionToolParam{Name: name, Parameters: schema}}},
	})
	calls := 0
	for events.Next() {
		if events.Current().Type == "response.function_call_arguments.done" {
			calls++
		}
	}
	must(events.Err())
	if !tell("", calls) {
		panic("no tool was called")
	}
}

func withAnthropic(base string, stream bool) {
	ctx := context.Background()
	client := anthropic.NewClient(anthropicoption.WithBaseURL(base), anthropicoption.WithAPIKey("sk-ant-test-0123456789"))
	input := anthropic.ToolInputSchemaParam{Properties: city, Required: []string{"city"}}
	asked := anthropic.MessageNewParams{
		Model:     "claude-sonnet-4-5",
		MaxTokens: 500,
		Messages:  []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(ask))},
		Tools:     []anthropic.ToolUnionParam{{OfTool: &anthropic.ToolParam{Name: name, InputSchema: input}}},
	}
	turn(func() bool {
		answer := new(anthropic.Message)
		if stream {
			events := client.Messages.NewStreaming(ctx, asked)
			for events.Next() {
				must(answer.Accumulate(events.Current()))
			}
			must(events.Err())
		} else {
			var err error
			answer, err = client.Messages.New(ctx, asked)
			must(err)
		}
		text, results := "", []anthropic.ContentBlockParamUnion{}
		for _, block := range answer.Content {
			text += block.Text
			if block.Type == "tool_use" {
				results = append(results, anthropic.NewToolResultBlock(block.ID, result, false))
			}
		}
		asked.Messages = append(asked.Messages, answer.ToParam(), anthropic.NewUserMessage(results...))
		return tell(text, len(results))
	})
}

// Asks until no tool is called, which is after one was.
func turn(call func() bool) {
	for calls := 1; call(); calls++ {
		if calls > 2 {
			panic("it calls tools without end")
		}
	}
}

// Says an answer, and whether tools were called; one without has what the tool said.
func tell(text string, tools int) bool {
	fmt.Printf("%q %d\n", text, tools)
	if tools == 0 && !strings.Contains(text, result) {
		panic("the tool's result is not in the answer")
	}
	return tools > 0
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
