// SPDX-License-Identifier: Apache-2.0

package problems

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

func TestSet(t *testing.T) {
	var out bytes.Buffer
	s := New(slog.New(slog.NewTextHandler(&out, nil)))
	for range 3 {
		s.Note("nic/eth0", errors.New("no cable"))
	}
	s.Replace("object ", map[string]error{"object a": errors.New("x"), "object b": errors.New("y")})
	s.Replace("object ", map[string]error{"object b": errors.New("z")})
	list := s.List()
	if len(list) != 2 || list[0].Object != "nic/eth0" || list[1].Text != "z" {
		t.Errorf("problems %+v, want eth0's and b's", list)
	}
	s.Note("nic/eth0", nil)
	s.Note("nic/eth0", nil)
	if list := s.List(); len(list) != 1 {
		t.Errorf("problems %+v, want b's alone", list)
	}
	if n := strings.Count(out.String(), "\n"); n != 6 {
		t.Errorf("said %d times, want each beginning, change and end once:\n%s", n, out.String())
	}
}
