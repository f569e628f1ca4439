// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/patchbay-net/patchbay/test/site"
)

// column is the width of a node in the picture.
const column = 34

// draw prints who runs where, and who served how much.
func (s *scene) draw(results []served) {
	total := map[string]int{}
	for _, r := range results {
		total[r.pod]++
	}
	columns := make([][]string, len(s.Nodes))
	for i, n := range s.Nodes {
		lines := []string{fmt.Sprintf("%-6s eth1 %s", n.Name, n.External)}
		if n == s.owner {
			lines = append(lines, fmt.Sprintf("       announces %s", s.vip))
		}
		for _, name := range slices.Sorted(maps.Keys(n.Pods)) {
			line := fmt.Sprintf("  %-10s %s", name, n.Pods[name].Addr)
			if total[name] > 0 {
				line += fmt.Sprintf("  served %d", total[name])
			}
			lines = append(lines, line)
		}
		columns[i] = append(lines, fmt.Sprintf("       eth0 %s", n.Internal))
	}
	fmt.Printf("\n   client %s  --  http://%s/\n      |\n", site.ClientAddress, s.vip)
	fmt.Println("   port 3 == external switch (pb-ext) ======================================")
	for _, line := range sideBySide(columns) {
		fmt.Println("   " + line)
	}
	fmt.Println("   port 2 == internal switch (pb-int), NAT =================================")
	fmt.Print("      |\n   Internet\n\n")
	fmt.Printf("   gone: web-2, which served %d\n\n", total["web-2"])
}

// sideBySide joins blocks of lines, the last line of each at the bottom.
func sideBySide(columns [][]string) []string {
	height := 0
	for _, c := range columns {
		height = max(height, len(c))
	}
	out := make([]string, height)
	for _, c := range columns {
		missing := height - len(c)
		padded := slices.Concat(c[:len(c)-1], make([]string, missing), c[len(c)-1:])
		for i, line := range padded {
			out[i] += fmt.Sprintf("%-*s", column, line)
		}
	}
	for i, line := range out {
		out[i] = strings.TrimRight(line, " ")
	}
	return out
}
