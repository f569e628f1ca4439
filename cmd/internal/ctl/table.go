// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"sigs.k8s.io/yaml"
)

// column is one column of a noun's table.
type column[T any] struct {
	head string
	wide bool // with -o wide only
	cell func(T) string
}

// render writes rows as the format says. JSON and YAML are lists also of one.
func render[T any](w io.Writer, format string, columns []column[T], rows []T) error {
	switch format {
	case "json", "yaml":
		if rows == nil {
			rows = []T{}
		}
		return encode(w, format, rows)
	}
	return printTable(w, format == "wide", columns, rows)
}

func encode(w io.Writer, format string, value any) error {
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

func printTable[T any](w io.Writer, wide bool, columns []column[T], rows []T) error {
	var text bytes.Buffer
	tw := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	line := func(cell func(column[T]) string) {
		var cells []string
		for _, c := range columns {
			if !c.wide || wide {
				cells = append(cells, cell(c))
			}
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	line(func(c column[T]) string { return c.head })
	for _, row := range rows {
		line(func(c column[T]) string { return or(c.cell(row), "-") })
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

// or returns s, or the stand-in for an empty one.
func or(s, empty string) string {
	if s == "" {
		return empty
	}
	return s
}

// list joins values by commas.
func list[T fmt.Stringer](values []T) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = v.String()
	}
	return strings.Join(texts, ",")
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
