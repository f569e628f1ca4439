// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// starts is how often each program is started.
const starts = 200

// measureStart compares the start of the CNI binary, as for VERSION, with the reference's.
func measureStart(l *lab) []figure {
	node := netlab.StartNode(l, "node-a")
	var took map[string][]time.Duration
	own, peer := l.program("patchbay"), l.program("peers/ptp")
	l.worker(node, "", &took, "start", strconv.Itoa(starts), own, peer)
	return []figure{{"cni-start-p50", milliseconds(percentile(took[own], 50)), "ms", "ptp", milliseconds(percentile(took[peer], 50))}}
}

// startJob starts programs in turn and returns what each start took, to its end.
func startJob(count int, programs []string) (any, error) {
	took := map[string][]time.Duration{}
	for range count {
		for _, program := range programs {
			cmd := exec.Command(program)
			cmd.Env = []string{"CNI_COMMAND=VERSION"}
			cmd.Stdin = strings.NewReader(`{"cniVersion":"1.0.0"}`)
			start := time.Now()
			if err := cmd.Run(); err != nil {
				return nil, err
			}
			took[program] = append(took[program], time.Since(start))
		}
	}
	return took, nil
}
