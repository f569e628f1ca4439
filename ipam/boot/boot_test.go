// SPDX-License-Identifier: Apache-2.0

package boot

import "testing"

func TestBoot(t *testing.T) {
	first, err := ID()
	if err != nil || len(first) != 36 {
		t.Errorf("ID() = %q, %v, want 36 characters", first, err)
	}
	if second, _ := ID(); second != first {
		t.Errorf("ID() = %q, then %q, want the same", first, second)
	}
	before, err := Uptime()
	if err != nil || before <= 0 {
		t.Errorf("Uptime() = %v, %v, want more than zero", before, err)
	}
	if after, _ := Uptime(); after < before {
		t.Errorf("Uptime() went back from %v to %v", before, after)
	}
}
