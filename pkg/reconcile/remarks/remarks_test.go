// SPDX-License-Identifier: Apache-2.0

package remarks

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/pkg/source"
)

type teller []string

func (t *teller) Tell(obj source.Object, eventType, reason, message string) {
	*t = append(*t, fmt.Sprintf("%s %s %s: %s", eventType, reason, source.KeyOf(obj), message))
}

// TestTell: each thing is told once, unless it was over meanwhile; not what is
// young, what isn't about an object, and what is about one that is gone.
func TestTell(t *testing.T) {
	store := source.NewStore()
	web := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
	store.Apply(source.Event{Op: source.Upsert, Kind: source.KindService, Key: source.KeyOf(web), Object: web})
	now := time.Unix(1000, 0)
	problem := func(object, text string, age time.Duration) agentapi.Problem {
		return agentapi.Problem{Object: object, Text: text, Since: now.Add(-age)}
	}
	const about = "object Service shop/web"
	r := &Remarks{}
	for _, tt := range []struct { // in this order
		name     string
		problems []agentapi.Problem
		want     []string
		wait     time.Duration
	}{
		{"young", []agentapi.Problem{problem(about, "no", time.Second)}, nil, time.Second},
		{"old", []agentapi.Problem{problem(about, "no\nand no", 2*time.Second)}, []string{"Warning Refused shop/web: no; and no"}, 0},
		{"again", []agentapi.Problem{problem(about, "no\nand no", 3*time.Second)}, nil, 0},
		{"other text", []agentapi.Problem{problem(about, "no", 3*time.Second)}, []string{"Warning Refused shop/web: no"}, 0},
		{"over", nil, nil, 0},
		{"anew", []agentapi.Problem{problem(about, "no", 3*time.Second)}, []string{"Warning Refused shop/web: no"}, 0},
		{"others", []agentapi.Problem{problem("object Service shop/gone", "no", time.Minute), problem("agent/routes", "no", 0)}, nil, 0},
	} {
		var got teller
		r.Teller, r.Problems = &got, func() []agentapi.Problem { return tt.problems }
		wait := r.tell(store, now)
		if diff := cmp.Diff(tt.want, []string(got)); diff != "" || wait != tt.wait {
			t.Errorf("%s: wait %v, want %v; told (-want +got):\n%s", tt.name, wait, tt.wait, diff)
		}
	}
}

func TestMessage(t *testing.T) {
	long := message(strings.Repeat("endpoint 1: 127.0.0.1 is loopback\n", 100))
	if len(long) > longest || !strings.HasSuffix(long, "is loopback …") {
		t.Errorf("%d bytes, ending %q", len(long), long[len(long)-20:])
	}
	if word := message(strings.Repeat("é", longest)); len(word) > longest || !strings.HasSuffix(word, "é …") {
		t.Errorf("%d bytes, ending %q", len(word), word[len(word)-20:])
	}
}
