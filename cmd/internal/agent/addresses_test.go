// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/patchbay-net/patchbay/pkg/config"
)

// TestDrainRefused: why another node can't be drained comes back to who asked.
func TestDrainRefused(t *testing.T) {
	cfg := config.Config{NodeName: "b"}
	cfg.Paths.State = "/dev/null/state"
	var answer drainAnswer
	if err := json.Unmarshal((&addressDesk{cfg: cfg}).answerDrain([]byte(`{"on":true}`)), &answer); err != nil {
		t.Fatal(err)
	}
	if _, err := answer.result("b"); err == nil || !strings.Contains(err.Error(), "b: begin drain: ") {
		t.Errorf("%v, want what b said", err)
	}
}
