// SPDX-License-Identifier: Apache-2.0

package services

import (
	"errors"
	"fmt"

	"github.com/patchbay-net/patchbay/pkg/service"
)

// Refused is the error of a Service's port that a map has no room for. It is as it
// was before, or not there; all others are in force.
type Refused struct {
	Port service.PortName
	Err  error
}

// Error names the port.
func (r *Refused) Error() string { return fmt.Sprintf("service %s: %v", r.Port, r.Err) }

// Unwrap returns the cause.
func (r *Refused) Unwrap() error { return r.Err }

// Refusals takes an error of Set apart: what was refused, by Service, and the
// rest, which concerns all.
func Refusals(err error) (refused map[service.Name]error, rest error) {
	refused = map[service.Name]error{}
	var walk func(error) error
	walk = func(err error) error {
		var one *Refused
		switch e := err.(type) {
		case nil:
			return nil
		case *Refused:
			one = e
		case interface{ Unwrap() []error }:
			var rest []error
			for _, part := range e.Unwrap() {
				rest = append(rest, walk(part))
			}
			return errors.Join(rest...)
		case interface{ Unwrap() error }:
			if inner := walk(e.Unwrap()); inner == nil {
				return nil
			}
			return err
		default:
			return err
		}
		name := service.Name{Namespace: one.Port.Namespace, Name: one.Port.Name}
		if refused[name] == nil {
			refused[name] = one
		}
		return nil
	}
	rest = walk(err)
	return refused, rest
}
