// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Errors of the choice.
var (
	ErrExhausted = errors.New("no free address")             // every address is held, or rests for too short
	ErrHeld      = errors.New("address is in use")           // a requested address has a lease
	ErrResting   = errors.New("address was freed just now")  // a requested address rests for too short
	ErrOutside   = errors.New("address is not in the pools") // a requested address is in no pool
)

// State is how an address stands.
type State uint8

// The states of an address.
const (
	Free    State = iota // never used, or its rest is forgotten
	Held                 // leased, or reserved
	Resting              // freed, and for how long
)

// Use is how an address stands, and if it rests, for how long it has.
type Use struct {
	State  State
	Rested time.Duration
}

// Look tells how an address stands.
type Look func(netip.Addr) (Use, error)

// Rest says how long a freed address rests. After CoolDown it is as good as
// any; when only resting ones remain, the longest-rested of at least Minimum
// is given.
type Rest struct{ CoolDown, Minimum time.Duration }

// DefaultRest is the rest of pod addresses.
func DefaultRest() Rest { return Rest{CoolDown: time.Minute, Minimum: 5 * time.Second} }

// Choice is a chosen address.
type Choice struct {
	Addr  netip.Addr
	Early bool // it had not rested for the whole cool-down
}

// Next returns the next address behind the cursor that may be given. It
// returns an error that matches ErrExhausted if there is none.
func (p Pool) Next(cursor netip.Addr, rest Rest, look Look) (Choice, error) {
	var best netip.Addr
	var longest time.Duration
	first := p.after(cursor)
	for a := first; ; {
		use, err := look(a)
		switch {
		case err != nil:
			return Choice{}, err
		case use.State == Free, use.State == Resting && use.Rested >= rest.CoolDown:
			return Choice{Addr: a}, nil
		case use.State == Resting && use.Rested >= rest.Minimum && (!best.IsValid() || use.Rested > longest):
			best, longest = a, use.Rested
		}
		if a = p.after(a); a == first {
			break
		}
	}
	if best.IsValid() {
		return Choice{Addr: best, Early: true}, nil
	}
	return Choice{}, fmt.Errorf("%w in pool %s %s", ErrExhausted, p.Name, p)
}

// Take returns the requested address if it may be given. Its errors match
// ErrHeld or ErrResting.
func (r Rest) Take(a netip.Addr, look Look) (Choice, error) {
	use, err := look(a)
	switch {
	case err != nil:
		return Choice{}, err
	case use.State == Held:
		return Choice{}, fmt.Errorf("%w: %s", ErrHeld, a)
	case use.State == Resting && use.Rested < r.Minimum:
		return Choice{}, fmt.Errorf("%w: %s", ErrResting, a)
	}
	return Choice{Addr: a, Early: use.State == Resting && use.Rested < r.CoolDown}, nil
}

// Assign sorts requested addresses to the pools that have them: the result has
// an address, or an invalid one, for each pool. Its errors match ErrOutside or,
// where two are requested of one pool, ErrInvalid.
func Assign(pools []Pool, requested []netip.Addr) ([]netip.Addr, error) {
	assigned := make([]netip.Addr, len(pools))
	for _, a := range requested {
		i := poolOf(pools, a)
		if i < 0 {
			return nil, fmt.Errorf("%w: %s", ErrOutside, a)
		}
		if assigned[i].IsValid() && assigned[i] != a {
			return nil, fmt.Errorf("%w: addresses %s and %s are requested of one pool, %s", ErrInvalid, assigned[i], a, pools[i].Name)
		}
		assigned[i] = a
	}
	return assigned, nil
}

func poolOf(pools []Pool, a netip.Addr) int {
	for i, p := range pools {
		if p.Contains(a) {
			return i
		}
	}
	return -1
}
