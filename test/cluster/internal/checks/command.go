// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"fmt"
	"os/exec"
	"strings"
)

// output runs a command and returns all that it printed; an error has that too.
func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		args := cmd.Args[max(0, len(cmd.Args)-6):]
		err = fmt.Errorf("… %s: %w: %s", strings.Join(args, " "), err, text)
	}
	return text, err
}
