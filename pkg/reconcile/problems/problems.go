// SPDX-License-Identifier: Apache-2.0

// Package problems remembers what is wrong at present: objects that can't be
// used and things that can't be done, each said when it appears and when it is
// over, not each time it is met again.
package problems

import (
	"cmp"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/patchbay-net/patchbay/pkg/agentapi"
)

// Set is the problems. Make one with New; safe for concurrent use.
type Set struct {
	log *slog.Logger

	mu   sync.Mutex
	list map[string]problem // by object
}

type problem struct {
	text  string
	since time.Time
}

// New returns a set without problems.
func New(log *slog.Logger) *Set { return &Set{log: log, list: map[string]problem{}} }

// Note notes or, with nil, ends what is wrong with an object.
func (s *Set) Note(object string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note(object, err)
}

func (s *Set) note(object string, err error) {
	old, had := s.list[object]
	switch {
	case err == nil && had:
		delete(s.list, object)
		s.log.Info("solved", "object", object)
	case err != nil && (!had || old.text != err.Error()):
		s.list[object] = problem{err.Error(), time.Now()}
		s.log.Warn("problem", "object", object, "err", err)
	}
}

// Replace makes errs all problems of objects whose name begins with prefix.
func (s *Set) Replace(prefix string, errs map[string]error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for object := range s.list {
		if _, still := errs[object]; strings.HasPrefix(object, prefix) && !still {
			s.note(object, nil)
		}
	}
	for object, err := range errs {
		s.note(object, err)
	}
}

// List lists the problems by object.
func (s *Set) List() []agentapi.Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]agentapi.Problem, 0, len(s.list))
	for object, p := range s.list {
		list = append(list, agentapi.Problem{Object: object, Text: p.text, Since: p.since})
	}
	slices.SortFunc(list, func(a, b agentapi.Problem) int { return cmp.Compare(a.Object, b.Object) })
	return list
}
