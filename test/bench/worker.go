// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
)

// work is the program as a worker inside a node: worker JOB COUNT ARGS...; the
// answer goes to standard output as JSON.
func work(args []string) int {
	jobs := map[string]func(count int, args []string) (any, error){
		"pods": podJob, "start": startJob, "connect": connectJob, "ping-pong": pingPongJob, "echo": echoJob,
		"load": loadJob, "change": changeJob,
	}
	if len(args) < 2 || jobs[args[0]] == nil {
		fmt.Fprintln(os.Stderr, "bench: no such job:", args)
		return 2
	}
	count, err := strconv.Atoi(args[1])
	if err == nil {
		var answer any
		if answer, err = jobs[args[0]](count, args[2:]); err == nil {
			err = json.NewEncoder(os.Stdout).Encode(answer)
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %s: %v\n", args[0], err)
		return 1
	}
	return 0
}
