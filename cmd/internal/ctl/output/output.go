// SPDX-License-Identifier: Apache-2.0

// Package output prints what commands have to say: as a table, JSON or YAML, once
// or whenever it changes.
package output

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

// ErrNotWell is returned where the output itself says what is wrong.
var ErrNotWell = errors.New("not well")

// Formats are the values of --output.
func Formats() []string { return []string{"table", "wide", "json", "yaml"} }

// Structured tells whether a format is for programs.
func Structured(format string) bool { return format == "json" || format == "yaml" }

// Printer prints one command's output.
type Printer struct {
	Stdout, Stderr io.Writer
	Format         string
	Watch          bool
	Every          time.Duration                              // between two looks
	Wait           func(context.Context, time.Duration) error // for the next look
}

// Show prints what look returns: once, or, when it watches, whenever it is
// another. Meanwhile an agent that doesn't answer is reported and waited for.
func (p Printer) Show(ctx context.Context, look func(context.Context) ([]byte, error)) error {
	if !p.Watch {
		text, err := look(ctx)
		if _, errWrite := p.Stdout.Write(text); errWrite != nil {
			return errWrite
		}
		return err
	}
	var last []byte
	var lastErr string
	for first := true; ; first = false {
		text, err := look(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !errors.Is(err, ErrNotWell):
			if !errors.Is(err, agentapi.ErrUnavailable) {
				return err
			}
			if err.Error() != lastErr {
				fmt.Fprintln(p.Stderr, err)
			}
			lastErr = err.Error()
		case first || lastErr != "" || !bytes.Equal(text, last):
			if err := p.separate(first); err != nil {
				return err
			}
			if _, err := p.Stdout.Write(text); err != nil {
				return err
			}
			last, lastErr = text, ""
		}
		if err := p.Wait(ctx, p.Every); err != nil {
			return err
		}
	}
}

// separate sets one look apart from the one before.
func (p Printer) separate(first bool) error {
	if first {
		return nil
	}
	text := "\n"
	switch p.Format {
	case "yaml":
		text = "---\n"
	case "json":
		text = ""
	}
	_, err := p.Stdout.Write([]byte(text))
	return err
}

// Encode writes a value as JSON or YAML.
func Encode(w io.Writer, format string, value any) error {
	if format == "yaml" {
		text, err := yaml.Marshal(value)
		if err != nil {
			return fmt.Errorf("encode: %w", err)
		}
		_, err = w.Write(text)
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(value)
}

// Table writes rows in columns, the first of which has the heads.
func Table(w io.Writer, rows [][]string) error {
	var text bytes.Buffer
	tw := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for l := range strings.Lines(text.String()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(l, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// List joins values by commas.
func List[T fmt.Stringer](values []T) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = v.String()
	}
	return strings.Join(texts, ",")
}

// Age is the time from t to now in its largest unit.
func Age(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := max(0, now.Sub(t))
	switch {
	case d < 2*time.Minute:
		return strconv.Itoa(int(d.Seconds())) + "s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + "h"
	}
	return strconv.Itoa(int(d.Hours()/24)) + "d"
}

// Hint is what to do about an agent that isn't reached; empty: the error says all.
func Hint(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "Only root may do this: run it with sudo."
	case errors.Is(err, agentapi.ErrStranger):
		return "Something else than Patchbay's agent listens there; --socket names another place."
	case !errors.Is(err, agentapi.ErrUnavailable):
		return ""
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.EAGAIN):
		return "The agent is there and too busy to answer, or stuck: 'patchbayctl bundle' keeps what is known."
	}
	return "No agent runs on this node, or --socket names another place. Its log tells why it ended; what it has put in\n" +
		"force goes on. trace, capture, doctor, bundle, routes and switches work without it, --server asks Kubernetes."
}
